"""A policy's answers to problems: sampled, greedy, and what the verifier says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cooper.samplers.base import Sampler
from cooper.types import Prompt, SamplingParams, Verdict
from cooper.verifiers.base import Verifier


@dataclass(frozen=True)
class Answer:
    """One completion and its verdict."""

    completion: str
    tokens: int  # end-of-sequence token included
    finished: bool  # ended by itself, or cut at the length limit
    verdict: Verdict


@dataclass(frozen=True)
class Answers:
    """All completions of one problem."""

    samples: list[Answer]  # [k]
    greedy: Answer | None


@dataclass
class Answerer:
    """Draws completions and asks the verifier.

    Args:
        verifier: of the evaluation.
        sampler: knows its policy already (:meth:`~cooper.samplers.base.Sampler.sync`).
        sampling: how the samples are drawn.
        samples: k.
        greedy: also take the greedy answer.
    """

    verifier: Verifier
    sampler: Sampler
    sampling: SamplingParams
    samples: int
    greedy: bool

    def __call__(self, prompts: Sequence[Prompt], rng: torch.Generator) -> list[Answers]:
        """Answer one batch of problems; all chance comes from the generator."""
        k = self.samples
        sampled = self._answers(prompts, k, self.sampling, rng)
        greedy: list[Answer] = []
        if self.greedy:
            greedy = self._answers(prompts, 1, replace(self.sampling, temperature=0.0), rng)
        return [
            Answers(sampled[i * k : (i + 1) * k], greedy[i] if greedy else None)
            for i in range(len(prompts))
        ]

    def _answers(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        params: SamplingParams,
        rng: torch.Generator,
    ) -> list[Answer]:
        drawn = self.sampler.sample(prompts, samples, params, rng)
        verdicts = self.verifier.verify(drawn.completions, drawn.references, drawn.questions)
        return [
            Answer(*one)
            for one in zip(
                drawn.completions,
                drawn.lengths.tolist(),
                drawn.finished.tolist(),
                verdicts,
                strict=True,
            )
        ]
