"""Evaluate a policy on held-out problems, with a verifier that nothing in training reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cooper.collectives import ranks, spread
from cooper.data.prompts import PromptBuilder
from cooper.evaluation.answers import Answerer, Answers
from cooper.evaluation.scores import average_at_k, majority_at_k, pass_at_k
from cooper.metrics import Metrics
from cooper.models.policy import Policy
from cooper.progress import progress
from cooper.rng import generator
from cooper.samplers.base import Sampler
from cooper.types import Problem, SamplingParams
from cooper.verifiers.base import Verifier


class Evaluator:
    """avg@k, pass@k, maj@k by sampling, and the greedy answer.

    The same seed draws the same noise at every evaluation, so that two evaluations differ by the
    policy and not by luck. Several processes answer a batch each at a time, as one would.

    Args:
        verifier: the evaluation's own.
        sampler: draws the samples.
        sampling: how; the paper: temperature 0.7, top-p 0.95.
        samples: k (the paper: 8).
        greedy: also take the greedy answer.
        breakdown: report groups of problems apart: "source", a key of the problems' meta, or
            None.
        batch_size: problems sampled at once.
        seed: of the noise.
    """

    def __init__(
        self,
        *,
        verifier: Verifier,
        sampler: Sampler,
        sampling: SamplingParams,
        samples: int = 8,
        greedy: bool = True,
        breakdown: str | None = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.verifier = verifier
        self.sampler = sampler
        self.sampling = sampling
        self.samples = samples
        self.greedy = greedy
        self.breakdown = breakdown
        self.batch_size = batch_size
        self.seed = seed

    def __call__(
        self,
        policy: Policy,
        prompts: PromptBuilder,
        sets: Mapping[str, Sequence[Problem]],
        *,
        version: int = 0,
        title: str | None = None,
    ) -> Metrics:
        """Evaluate on named sets.

        Args:
            policy: to evaluate.
            prompts: the policy's prompt template.
            sets: problems by the name of their set.
            version: optimizer steps of the policy.
            title: of a progress bar; None: no bar.

        Returns:
            ``val/<set>/avg_at_<k>``, ``/pass_at_<k>``, ``/maj_at_<k>``, ``/greedy``, and the same
            under ``val/<set>.<group>/`` for each group.
        """
        metrics: Metrics = {}
        self.sampler.sync(policy, version)
        for name, problems in sets.items():
            rows = self._answers(prompts, problems, f"{title}: {name}" if title else None)
            groups = {"": list(range(len(problems)))}
            if self.breakdown:
                for index, problem in enumerate(problems):
                    groups.setdefault(f".{self._group(problem)}", []).append(index)
            for suffix, indices in groups.items():
                metrics.update(self._scores(f"val/{name}{suffix}", [rows[i] for i in indices]))
        return metrics

    def _group(self, problem: Problem) -> str:
        if self.breakdown == "source":
            return problem.source
        return str(problem.meta.get(self.breakdown or "", "other"))

    def _answers(
        self, prompts: PromptBuilder, problems: Sequence[Problem], title: str | None
    ) -> list[Answers]:
        answerer = Answerer(self.verifier, self.sampler, self.sampling, self.samples, self.greedy)
        bar = progress(title or "", len(problems), "problem", show=title is not None)

        def answered(starts: Sequence[int]) -> list[list[Answers]]:
            found = []
            for start in starts:
                batch = [prompts(p) for p in problems[start : start + self.batch_size]]
                # Of the batch alone, whichever process answers it.
                rng = generator(self.seed, f"evaluation {start}")
                found.append(answerer(batch, rng))
                shown.advance(len(batch) * ranks())
            return found

        with bar as shown:
            batches = spread(range(0, len(problems), self.batch_size), answered)
        return [answers for batch in batches for answers in batch]

    def _scores(self, prefix: str, answers: Sequence[Answers]) -> Metrics:
        n = len(answers)
        if not n:
            return {}
        rows = [[sample.verdict for sample in one.samples] for one in answers]
        metrics = {
            f"{prefix}/avg_at_{self.samples}": sum(map(average_at_k, rows)) / n,
            f"{prefix}/pass_at_{self.samples}": sum(map(pass_at_k, rows)) / n,
            f"{prefix}/maj_at_{self.samples}": sum(map(majority_at_k, rows)) / n,
        }
        if self.greedy:
            right = [one.greedy is not None and one.greedy.verdict.correct for one in answers]
            metrics[f"{prefix}/greedy"] = sum(right) / n
        return metrics
