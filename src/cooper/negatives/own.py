"""The policy's own decisively wrong completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from cooper.checks import one_of
from cooper.negatives.base import NegativeGenerator
from cooper.rng import pick
from cooper.types import Negative, NegativeRequest


class SelfNegatives(NegativeGenerator):
    """An INCORRECT completion of the same group: what the policy really gets wrong now.

    Costs nothing and follows the policy wherever it drifts; dries up as the policy gets better.

    Args:
        choose: a "random" one, or the "highest_scored": the one that the reward model is fooled by
            most (a hard negative).
    """

    def __init__(self, choose: Literal["random", "highest_scored"] = "random") -> None:
        one_of("negatives.choose", choose, ("random", "highest_scored"))
        self.choose = choose

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """See :class:`~cooper.negatives.base.NegativeGenerator`."""
        negatives = []
        for request in requests:
            wrong = [i for i, verdict in enumerate(request.verdicts) if verdict.incorrect]
            if not wrong:
                negatives.append(Negative(None, "self"))
                continue
            taken = pick(wrong, generator)
            if self.choose == "highest_scored" and request.scores is not None:
                taken = max(wrong, key=request.scores.__getitem__)
            negatives.append(Negative(request.group[taken], "self"))
        return negatives
