"""Slopes that one wild step does not bend."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """Median of the slopes of all pairs of points (Theil 1950, Sen 1968).

    Up to 29 % of the points may be anywhere without carrying it away.

    Args:
        points: (x, y), at least two, the x all different.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(points) < 2:
        raise ValueError(f"a slope needs two points, got {len(points)}")
    return median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2))
