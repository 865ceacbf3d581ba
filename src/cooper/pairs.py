"""Chosen and rejected completions: choose, generate, re-verify, and count what was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cooper.checks import one_of
from cooper.collectives import rank, ranks, spread
from cooper.early_pairs import Begun, EarlyPairs
from cooper.models.policy import Policy
from cooper.negatives.base import NegativeGenerator
from cooper.rng import draw, forked
from cooper.tracing import span
from cooper.types import (
    Negative,
    NegativeRequest,
    Pair,
    Pairs,
    Rollouts,
    Status,
    Verdict,
)
from cooper.verifiers.base import Verifier
from cooper.verifiers.pending import Verification

Choice = Literal["random", "first", "shortest", "lowest_scored"]

_COUNTS = (
    "built",
    "dropped_no_correct",
    "dropped_no_reply",
    "dropped_no_text",
    "dropped_still_correct",
    "dropped_undecided",
)


class PairBuilder:
    """Builds contrastive pairs for every problem that allows it: one, or several.

    Only the training verifier's verdicts select; nothing that knows more is ever asked.

    Args:
        verifier: the training verifier; re-verifies what the generator brings.
        negatives: where rejected completions come from.
        choose: which verified-correct completion is chosen. The published code always takes the
            first; "random" shows the reward model the policy's whole range. Also "shortest", and
            "lowest_scored" (the one that the reward model likes least: needs scores).
        tries: how often a generator is asked for one pair (the paper: 3).
        per_problem: pairs of one problem at most, each with a chosen completion of its own.
    """

    def __init__(
        self,
        verifier: Verifier,
        negatives: NegativeGenerator,
        choose: Choice = "random",
        tries: int = 3,
        per_problem: int = 1,
    ) -> None:
        one_of("pairs.choose", choose, ("random", "first", "shortest", "lowest_scored"))
        if tries < 1:
            raise ValueError(f"pairs.tries={tries}: must be at least 1")
        self.verifier = verifier
        self.negatives = negatives
        self.choose: Choice = choose
        if per_problem < 1:
            raise ValueError(f"pairs.per_problem={per_problem}: must be at least 1")
        self.tries = tries
        self.per_problem = per_problem

    def early(
        self,
        policy: Policy,
        verification: Verification,
        group_size: int,
        generator: torch.Generator,
    ) -> EarlyPairs | None:
        """Whoever begins a step's pairs while its rollouts are drawn; None: nobody can.

        Args:
            policy: that is drawn from.
            verification: of what is drawn, by this builder's verifier or one like it.
            group_size: rollouts a problem.
            generator: as :meth:`build` takes it.
        """
        rewriter = self.negatives.rewriter(policy)
        if (
            rewriter is None
            or self.choose == "lowest_scored"
            or verification.verifier.whole_batches
        ):
            return None
        return EarlyPairs(
            rewriter, self.choose, self.per_problem, verification, group_size, generator
        )

    def build(
        self,
        rollouts: Rollouts,
        verdicts: Sequence[Verdict],
        scores: Tensor | None,
        generator: torch.Generator,
        begun: Begun | None = None,
    ) -> Pairs:
        """Build the pairs of a step.

        Args:
            rollouts: N completions of P problems.
            verdicts: [N] of the training verifier.
            scores: [N] reward-model scores, for ``choose="lowest_scored"`` and hard negatives.
            generator: source of all chance; advanced.
            begun: of these rollouts, what was chosen and proposed while they were drawn.

        Returns:
            K pairs, and the counts of problems without a correct completion and of chosen
            completions that found no partner, by reason.
        """
        counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        chosen: list[int] = []  # rollouts; each stands for its problem
        begun = begun or Begun()
        for problem, group in enumerate(rollouts.groups):
            correct = [i for i in group if verdicts[i].correct]
            if problem in begun.chosen:
                chosen += begun.chosen[problem]
            else:
                chosen += self._choose(correct, rollouts, scores, generator)
            if group and not correct:
                counts["dropped_no_correct"] += 1

        built: dict[int, Pair] = {}
        why: dict[int, str] = {}
        waiting = chosen
        there = dict(begun.negatives)  # proposals that are there already
        self.negatives.begin()
        for _ in range(self.tries):
            if not waiting:
                break
            asked = [i for i in waiting if i not in there]
            requests = [self._request(i, rollouts, verdicts, scores) for i in asked]
            with span("negatives", count=len(requests)):
                new = self._propose(requests, generator) if requests else []
            there.update(zip(asked, new, strict=True))
            proposals = [there.pop(i) for i in waiting]
            problems = [rollouts.owners[i] for i in waiting]
            texts = [proposal.text for proposal in proposals]
            with span("negatives' verdicts"):
                checked = self._verify(problems, texts, rollouts, verdicts)
            for index, proposal, verdict in zip(waiting, proposals, checked, strict=True):
                if proposal.text is None or verdict is None:
                    lost = bool(proposal.failure)
                    why[index] = "dropped_no_reply" if lost else "dropped_no_text"
                elif verdict.status is Status.INCORRECT:
                    group = rollouts.groups[rollouts.owners[index]]
                    own = [i for i in group if rollouts.completions[i] == proposal.text]
                    built[index] = Pair(
                        problem=rollouts.owners[index],
                        chosen=rollouts.completions[index],
                        rejected=proposal.text,
                        chosen_rollout=index,
                        rejected_rollout=own[0] if own else None,
                        provenance=proposal.source,
                    )
                elif verdict.status is Status.CORRECT:
                    why[index] = "dropped_still_correct"
                else:
                    why[index] = "dropped_undecided"
            waiting = [index for index in waiting if index not in built]
        for index in waiting:
            counts[why[index]] += 1
        counts["built"] = len(built)
        return Pairs(tuple(built[i] for i in sorted(built)), dict(counts))

    def _propose(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """Ask the generator, each process for a part of the requests where that takes long."""
        if ranks() == 1 or not self.negatives.slow:
            return self.negatives.generate(requests, generator)
        own = forked(generator, rank())
        return spread(requests, lambda part: self.negatives.generate(part, own))

    def _choose(
        self, correct: list[int], rollouts: Rollouts, scores: Tensor | None, rng: torch.Generator
    ) -> list[int]:
        """Up to `per_problem` of a problem's correct rollouts."""
        if self.choose == "random":
            left, taken = list(correct), []
            while left and len(taken) < self.per_problem:
                taken.append(left.pop(draw(rng, len(left))))
            return taken
        ranked = correct  # "first"
        if self.choose == "shortest":
            ranked = sorted(correct, key=lambda i: len(rollouts.completions[i]))
        if self.choose == "lowest_scored":
            if scores is None:
                raise ValueError("pairs.choose=lowest_scored needs reward-model scores")
            ranked = sorted(correct, key=lambda i: float(scores[i]))
        return ranked[: self.per_problem]

    @staticmethod
    def _request(
        chosen: int, rollouts: Rollouts, verdicts: Sequence[Verdict], scores: Tensor | None
    ) -> NegativeRequest:
        problem = rollouts.owners[chosen]
        group = rollouts.groups[problem]
        return NegativeRequest(
            problem=rollouts.problems[problem],
            chosen=rollouts.completions[chosen],
            group=[rollouts.completions[i] for i in group],
            verdicts=[verdicts[i] for i in group],
            scores=None if scores is None else [float(scores[i]) for i in group],
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
        new = spread(
            unknown,
            lambda part: self.verifier.verify(
                [texts[row] or "" for row in part],
                [rollouts.problems[problems[row]].reference for row in part],
                [rollouts.problems[problems[row]].question for row in part],
            ),
        )
        for row, verdict in zip(unknown, new, strict=True):
            results[row] = verdict
        return results
