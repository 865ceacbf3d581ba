"""Chosen and rejected completions: choose, generate, re-verify, and count what was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cooper.checks import one_of
from cooper.negatives.base import NegativeGenerator
from cooper.rng import pick
from cooper.types import NegativeRequest, Pair, Pairs, Rollouts, Status, Verdict
from cooper.verifiers.base import Verifier

Choice = Literal["random", "first", "shortest", "lowest_scored"]

_COUNTS = (
    "built",
    "dropped_no_correct",
    "dropped_no_text",
    "dropped_still_correct",
    "dropped_undecided",
)


class PairBuilder:
    """Builds one contrastive pair per problem that allows it.

    Only the training verifier's verdicts select; nothing that knows more is ever asked.

    Args:
        verifier: the training verifier; re-verifies what the generator brings.
        negatives: where rejected completions come from.
        choose: which verified-correct completion is chosen. The published code always takes the
            first; "random" shows the reward model the policy's whole range. Also "shortest", and
            "lowest_scored" (the one that the reward model likes least: needs scores).
        tries: how often a generator is asked for one problem (the paper: 3).
    """

    def __init__(
        self,
        verifier: Verifier,
        negatives: NegativeGenerator,
        choose: Choice = "random",
        tries: int = 3,
    ) -> None:
        one_of("pairs.choose", choose, ("random", "first", "shortest", "lowest_scored"))
        if tries < 1:
            raise ValueError(f"pairs.tries={tries}: must be at least 1")
        self.verifier = verifier
        self.negatives = negatives
        self.choose = choose
        self.tries = tries

    def build(
        self,
        rollouts: Rollouts,
        verdicts: Sequence[Verdict],
        scores: Tensor | None,
        generator: torch.Generator,
    ) -> Pairs:
        """Build the pairs of a step.

        Args:
            rollouts: N completions of P problems.
            verdicts: [N] of the training verifier.
            scores: [N] reward-model scores, for ``choose="lowest_scored"``.
            generator: source of all chance; advanced.

        Returns:
            K <= P pairs, and the count of every problem that gave none, by reason.
        """
        counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        chosen: dict[int, int] = {}
        for problem, group in enumerate(rollouts.groups):
            correct = [i for i in group if verdicts[i].correct]
            if correct:
                chosen[problem] = self._choose(correct, rollouts, scores, generator)
            elif group:
                counts["dropped_no_correct"] += 1

        built: dict[int, Pair] = {}
        why: dict[int, str] = {}
        waiting = list(chosen)
        for _ in range(self.tries):
            if not waiting:
                break
            requests = [self._request(p, chosen[p], rollouts, verdicts) for p in waiting]
            proposals = self.negatives.generate(requests, generator)
            texts = [proposal.text for proposal in proposals]
            checked = self._verify(waiting, texts, rollouts, verdicts)
            for problem, proposal, verdict in zip(waiting, proposals, checked, strict=True):
                if proposal.text is None or verdict is None:
                    why[problem] = "dropped_no_text"
                elif verdict.status is Status.INCORRECT:
                    group = rollouts.groups[problem]
                    own = [i for i in group if rollouts.completions[i] == proposal.text]
                    built[problem] = Pair(
                        problem=problem,
                        chosen=rollouts.completions[chosen[problem]],
                        rejected=proposal.text,
                        chosen_rollout=chosen[problem],
                        rejected_rollout=own[0] if own else None,
                        provenance=proposal.source,
                    )
                elif verdict.status is Status.CORRECT:
                    why[problem] = "dropped_still_correct"
                else:
                    why[problem] = "dropped_undecided"
            waiting = [problem for problem in waiting if problem not in built]
        for problem in waiting:
            counts[why[problem]] += 1
        counts["built"] = len(built)
        return Pairs(tuple(built[p] for p in sorted(built)), dict(counts))

    def _choose(
        self, correct: list[int], rollouts: Rollouts, scores: Tensor | None, rng: torch.Generator
    ) -> int:
        if self.choose == "first":
            return correct[0]
        if self.choose == "shortest":
            return min(correct, key=lambda i: len(rollouts.completions[i]))
        if self.choose == "lowest_scored":
            if scores is None:
                raise ValueError("pairs.choose=lowest_scored needs reward-model scores")
            return min(correct, key=lambda i: float(scores[i]))
        return pick(correct, rng)

    @staticmethod
    def _request(
        problem: int, chosen: int, rollouts: Rollouts, verdicts: Sequence[Verdict]
    ) -> NegativeRequest:
        group = rollouts.groups[problem]
        return NegativeRequest(
            problem=rollouts.problems[problem],
            chosen=rollouts.completions[chosen],
            group=[rollouts.completions[i] for i in group],
            verdicts=[verdicts[i] for i in group],
        )

    def _verify(
        self,
        problems: Sequence[int],
        texts: Sequence[str | None],
        rollouts: Rollouts,
        verdicts: Sequence[Verdict],
    ) -> list[Verdict | None]:
        """Verify proposals; a rollout of this step has its verdict already."""
        results: list[Verdict | None] = [None] * len(texts)
        unknown = []
        for row, (problem, text) in enumerate(zip(problems, texts, strict=True)):
            if text is None:
                continue
            known = [i for i in rollouts.groups[problem] if rollouts.completions[i] == text]
            if known:
                results[row] = verdicts[known[0]]
            else:
                unknown.append(row)
        new = self.verifier.verify(
            [texts[row] or "" for row in unknown],
            [rollouts.problems[problems[row]].reference for row in unknown],
            [rollouts.problems[problems[row]].question for row in unknown],
        )
        for row, verdict in zip(unknown, new, strict=True):
            results[row] = verdict
        return results
