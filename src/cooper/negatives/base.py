"""The contract of a negative generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from cooper.models.policy import Policy
from cooper.types import Negative, NegativeRequest


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
