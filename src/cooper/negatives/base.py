"""The contract of a negative generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from cooper.models.policy import Policy
from cooper.types import Negative, NegativeRequest, Problem, Prompt, SamplingParams


class Rewriter(Protocol):
    """Asks a language model for one wrong completion, and reads its answer."""

    params: SamplingParams

    def ask(self, problem: Problem, chosen: str) -> Prompt | None:
        """The prompt for a problem and its right completion; None: it cannot be read whole."""
        ...

    def answered(self, chosen: str, text: str, finished: bool) -> Negative:
        """What an answer is worth.

        Args:
            chosen: the right completion that was asked with.
            text: the answer.
            finished: it ended by itself and was not cut.
        """
        ...


class NegativeGenerator(ABC):
    """Proposes a wrong completion for each request.

    The pair builder verifies every proposal against the reference and asks again when it is not
    decisively wrong: a generator need not be sure. It may look at the training verifier's
    verdicts, never at the evaluation's.
    """

    @property
    def slow(self) -> bool:
        """Whether requests are worth being spread over processes: each one asks a model.

        If not, every process answers all of them, from the same chance.
        """
        return False

    @property
    def models(self) -> tuple[Policy, ...]:
        """What it computes with."""
        return ()

    def rewriter(self, policy: Policy) -> Rewriter | None:
        """What the policy's start could answer among the policy's own rollouts, if anything.

        Asked so, and read so, its answers are what :meth:`generate` would bring.

        Args:
            policy: the one in training.
        """
        return None

    @abstractmethod
    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """Propose one negative per request, in order; ``text=None`` where there is none."""

    def begin(self) -> None:
        """A step's requests begin: limits of time count from here; called before its first."""

    def bind(self, policy: Policy, start: Callable[[], Policy]) -> None:
        """Take the run's models; called once, before the first step, if the run makes pairs.

        Args:
            policy: the one in training. It says where a model has to be (its device).
            start: gives the policy as it was at the start, frozen, for a generator that asks a
                model. Nobody asking, none is made; whoever asks gets the same one.
        """

    def close(self) -> None:
        """Give models and memory back."""
