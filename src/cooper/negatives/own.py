"""The policy's own decisively wrong completions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cooper.negatives.base import NegativeGenerator
from cooper.rng import pick
from cooper.types import Negative, NegativeRequest


class SelfNegatives(NegativeGenerator):
    """A random INCORRECT completion of the same group: what the policy really gets wrong now.

    Costs nothing and follows the policy wherever it drifts; dries up as the policy gets better.
    """

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """See :class:`~cooper.negatives.base.NegativeGenerator`."""
        negatives = []
        for request in requests:
            wrong = [
                text
                for text, verdict in zip(request.group, request.verdicts, strict=True)
                if verdict.incorrect
            ]
            negatives.append(Negative(pick(wrong, generator) if wrong else None, "self"))
        return negatives
