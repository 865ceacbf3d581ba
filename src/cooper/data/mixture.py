"""Several data sets as one, by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import overload

import torch

from cooper.data.table_problems import TableProblems
from cooper.errors import DataError
from cooper.rng import generator
from cooper.types import Problem


class Mixture(Sequence[Problem]):
    """Problems of several sets, drawn by weight.

    An epoch has as many draws as there are problems in all sets together, of which each set gets
    its weight's share to the problem, in an order of the seed's. Within a set, draws go on through
    permutation after permutation from one epoch to the next: a large set is seen whole before any
    of its problems comes again, a small one with a large weight comes round more often. What is
    drawn at a position depends on (seed, position) alone, as without a mixture.

    Args:
        sources: names with problems, or with the path of a table of them
            (:class:`cooper.data.TableProblems`).
        weights: names with the share of the draws, in any unit; by default all draws are alike,
            so that a set's share is its size.

    Raises:
        DataError: no sources, an empty one, or weights that are not theirs or not above 0.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Problem] | str],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.sources: dict[str, Sequence[Problem]] = {
            name: TableProblems(source) if isinstance(source, str) else source
            for name, source in sources.items()
        }
        if not self.sources:
            raise DataError("mixture: no sources; give at least one")
        for name, problems in self.sources.items():
            if not len(problems):
                raise DataError(f"mixture: source {name} holds no problems; leave it out")
        weights = weights or {name: len(problems) for name, problems in self.sources.items()}
        if set(weights) != set(self.sources):
            raise DataError(
                f"mixture: weights for {', '.join(weights)} and sources {', '.join(self.sources)}; "
                "give each source its weight"
            )
        for name, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise DataError(f"mixture: weight {weight} of {name}; give a number above 0")
        self.weights = {name: float(weights[name]) for name in self.sources}
        self._starts = [0, *accumulate(len(problems) for problems in self.sources.values())]

    @property
    def draws(self) -> dict[str, int]:
        """Draws of each source in an epoch, by largest remainder."""
        total, size = sum(self.weights.values()), len(self)
        exact = {name: size * weight / total for name, weight in self.weights.items()}
        counts = {name: int(share) for name, share in exact.items()}
        by_rest = sorted(exact, key=lambda name: counts[name] - exact[name])
        for name in by_rest[: size - sum(counts.values())]:
            counts[name] += 1
        return counts

    def order(self, seed: int, epoch: int) -> list[int]:
        """The indices drawn in an epoch, in order: [number of problems]."""
        picked: list[int] = []
        for (name, count), start in zip(self.draws.items(), self._starts, strict=False):
            size = len(self.sources[name])
            positions = range(epoch * count, (epoch + 1) * count)
            rounds = {r: permutation(size, seed, f"{name} {r}") for r in rounds_of(positions, size)}
            picked += [start + rounds[p // size][p % size] for p in positions]
        return [picked[i] for i in permutation(len(picked), seed, f"epoch {epoch}")]

    def select(self, kept: Sequence[int]) -> Mixture:
        """The mixture of some of its problems, with the same weights.

        Raises:
            DataError: nothing is left of a source.
        """
        problems = set(kept)
        return Mixture(
            {
                name: [p for i, p in enumerate(source, start) if i in problems]
                for (name, source), start in zip(self.sources.items(), self._starts, strict=False)
            },
            self.weights,
        )

    def __len__(self) -> int:
        """Problems of all sources, which are also the draws of an epoch."""
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        """Problem `index` of all sources one after the other, or a list for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        for source, start in zip(self.sources.values(), self._starts, strict=False):
            if index < start + len(source):
                return source[index - start]
        raise AssertionError("an index within the length lies in a source")


def select(problems: Sequence[Problem], kept: Sequence[int]) -> Sequence[Problem]:
    """Some of the problems, in their order; a mixture stays one."""
    if len(kept) == len(problems):
        return problems
    return problems.select(kept) if isinstance(problems, Mixture) else [problems[i] for i in kept]


def rounds_of(positions: range, size: int) -> range:
    """The passes through a set of some size that these positions touch."""
    return range(positions.start // size, (positions.stop - 1) // size + 1)


def permutation(size: int, seed: int, purpose: str) -> list[int]:
    """A permutation that seed and purpose decide."""
    return torch.randperm(size, generator=generator(seed, purpose)).tolist()
