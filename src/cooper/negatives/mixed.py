"""Several generators by weight, each standing in for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from cooper.models.policy import Policy
from cooper.negatives.base import NegativeGenerator
from cooper.rng import uniform
from cooper.types import Negative, NegativeRequest


class MixedNegatives(NegativeGenerator):
    """Draws a generator per request by weight; the others follow in the order written.

    Args:
        generators: the parts by name.
        weights: share of each, by the same names; they need not sum to 1. A weight of 0 makes a
            part a mere fallback.
    """

    def __init__(
        self, generators: Mapping[str, NegativeGenerator], weights: Mapping[str, float]
    ) -> None:
        if not generators or set(generators) != set(weights):
            raise ValueError(
                f"negatives.weights names {sorted(weights)} but negatives.generators "
                f"{sorted(generators)}: give each generator one weight"
            )
        if min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(
                f"negatives.weights={dict(weights)}: weights are 0 or more, at least one above 0"
            )
        self.generators = dict(generators)
        self.weights = {name: float(weights[name]) for name in self.generators}

    def _draw(self, rng: torch.Generator) -> str:
        at = uniform(rng) * sum(self.weights.values())
        for name, weight in self.weights.items():
            at -= weight
            if at < 0:
                return name
        return max(self.weights, key=lambda name: self.weights[name])

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """See :class:`~cooper.negatives.base.NegativeGenerator`."""
        negatives: list[Negative | None] = [None] * len(requests)
        first = [self._draw(generator) for _ in requests]
        waiting = {i: [first[i], *(n for n in self.generators if n != first[i])]
                   for i in range(len(requests))}  # fmt: skip
        while waiting:
            for name, part in self.generators.items():
                rows = [i for i, order in waiting.items() if order[0] == name]
                found = part.generate([requests[i] for i in rows], generator) if rows else []
                for row, negative in zip(rows, found, strict=True):
                    negatives[row] = negative
                    waiting[row] = waiting[row][1:]
                    if negative.text is not None or not waiting[row]:
                        del waiting[row]
        return [negative for negative in negatives if negative is not None]

    @property
    def slow(self) -> bool:
        """Whether a part is."""
        return any(part.slow for part in self.generators.values())

    @property
    def models(self) -> tuple[Policy, ...]:
        """Those of all parts."""
        return tuple(model for part in self.generators.values() for model in part.models)

    def begin(self) -> None:
        """Tell every part."""
        for part in self.generators.values():
            part.begin()

    def bind(self, policy: Policy, start: Callable[[], Policy]) -> None:
        """Pass the models on to every part."""
        for part in self.generators.values():
            part.bind(policy, start)

    def close(self) -> None:
        """Close every part."""
        for part in self.generators.values():
            part.close()
