"""Stage (b): completions labelled by rule and judge (the paper's hybrid annotation)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cooper.data.labelled import to_row
from cooper.data.prompts import PromptBuilder
from cooper.models.policy import Policy
from cooper.progress import progress
from cooper.rng import generator
from cooper.samplers.base import Sampler
from cooper.types import LabelledCompletion, Problem, SamplingParams, Verdict
from cooper.verifiers.base import Verifier

LABELLED = "labelled.jsonl"
COUNTS = "counts.json"


def agree(rule: Verdict, judge: Verdict) -> bool | None:
    """The hybrid label: True, False, or None (dropped).

    Where the rule is UNDECIDED the judge alone labels; where both decide they must agree. A rule
    that cannot parse a reference must say UNDECIDED: were it to say INCORRECT, plain agreement
    would leave that kind of problem without one positive label.
    """
    if not judge.decided:
        return rule.correct if rule.decided else None
    if not rule.decided or rule.correct == judge.correct:
        return judge.correct
    return None


class HybridAnnotation:
    """Samples completions and labels them.

    Args:
        problems: what the completions answer.
        judge: labels what the rule cannot decide; never used by anything else.
        num_problems: how many of the problems are taken, from the front.
        completions: per problem.
        batch_size: problems sampled at once.
    """

    def __init__(
        self,
        *,
        problems: Sequence[Problem],
        judge: Verifier,
        num_problems: int,
        completions: int = 8,
        batch_size: int = 64,
    ) -> None:
        if not 0 < num_problems <= len(problems):
            raise ValueError(
                f"annotation.num_problems={num_problems}: the data holds {len(problems)} problems; "
                "take between 1 and all of them"
            )
        if completions < 1 or batch_size < 1:
            raise ValueError(
                f"annotation.completions={completions}, annotation.batch_size={batch_size}: each "
                "must be at least 1"
            )
        self.problems = problems
        self.judge = judge
        self.num_problems = num_problems
        self.completions = completions
        self.batch_size = batch_size

    def run(
        self,
        folder: Path,
        *,
        policy: Policy,
        prompts: PromptBuilder,
        sampler: Sampler,
        sampling: SamplingParams,
        rule: Verifier,
        seed: int,
    ) -> None:
        """Sample, label, and write ``labelled.jsonl`` and ``counts.json``.

        Args:
            folder: where to.
            policy: whose completions are labelled.
            prompts: the policy's prompt template.
            sampler: draws the completions.
            sampling: how.
            rule: the training verifier.
            seed: of the sampling.
        """
        rng = generator(seed, "annotation")
        sampler.sync(policy, 0)
        counts: Counter[str] = Counter()
        total = self.num_problems
        with (
            (folder / LABELLED).open("w", encoding="utf-8") as out,
            progress("labelling completions (rule + judge)", total, "problem") as bar,
        ):
            for start in range(0, total, self.batch_size):
                batch = self.problems[start : min(start + self.batch_size, total)]
                rollouts = sampler.sample(
                    [prompts(problem) for problem in batch], self.completions, sampling, rng
                )
                texts = (rollouts.completions, rollouts.references, rollouts.questions)
                by_rule, by_judge = rule.verify(*texts), self.judge.verify(*texts)
                for row, (one, other) in enumerate(zip(by_rule, by_judge, strict=True)):
                    label = agree(one, other)
                    if label is None:
                        counts["dropped"] += 1
                        continue
                    counts["right" if label else "wrong"] += 1
                    problem = rollouts.problems[rollouts.owners[row]]
                    item = LabelledCompletion(
                        question=problem.question,
                        reference=problem.reference,
                        completion=rollouts.completions[row],
                        label=label,
                        source=problem.source,
                    )
                    out.write(json.dumps(to_row(item), ensure_ascii=False) + "\n")
                bar.advance(len(batch), note=f"{counts['right']} right, {counts['wrong']} wrong")
        (folder / COUNTS).write_text(json.dumps(dict(counts), indent=1))
