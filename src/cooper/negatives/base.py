"""The contract of a negative generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from cooper.types import Negative, NegativeRequest


class NegativeGenerator(ABC):
    """Proposes a wrong completion for each request.

    The pair builder verifies every proposal against the reference and asks again when it is not
    decisively wrong: a generator need not be sure. It may look at the training verifier's
    verdicts, never at the evaluation's.
    """

    @abstractmethod
    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """Propose one negative per request, in order; ``text=None`` where there is none."""

    def close(self) -> None:
        """Give models and memory back."""
