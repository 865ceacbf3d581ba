"""Scores of a reward model, each process scoring a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from cooper.collectives import cut_evenly, rank, ranks, summed
from cooper.models.reward_model import RewardModel


class Scorer(Protocol):
    """Something that scores completions; a :class:`RewardModel` does."""

    def score(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> Tensor:
        """Logits of N triples: [N] float32 on the CPU."""
        ...

    def probabilities(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> Tensor:
        """Probabilities that N completions are right: [N]."""
        ...


class SpreadScorer:
    """A reward model that all processes ask at once, with the same completions.

    Args:
        model: asked.
        whole: brings its weights together for the time.
    """

    def __init__(
        self, model: RewardModel, whole: Callable[[RewardModel], AbstractContextManager[None]]
    ) -> None:
        self.model, self.whole = model, whole

    def score(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> Tensor:
        """See :meth:`RewardModel.score`; parts are of about the same length, in the order given."""
        lengths = [len(text) for text in completions]
        part = cut_evenly(lengths, ranks())[rank()]
        scores = torch.zeros(len(completions))
        with self.whole(self.model):
            own = slice(part.start, part.stop)
            scores[own] = self.model.score(questions[own], references[own], completions[own])
        return summed(scores)

    def probabilities(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> Tensor:
        """Sigmoid of :meth:`score`."""
        return self.score(questions, references, completions).sigmoid()
