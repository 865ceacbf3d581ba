"""The last figures of a run, and its first ones."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from cooper.monitoring.trends import theil_sen


@dataclass(frozen=True)
class Trend:
    """A robust slope and what it comes to.

    Attributes:
        slope: per step.
        steps: between the first and the last point.
    """

    slope: float
    steps: int

    @property
    def change(self) -> float:
        """Slope times steps."""
        return self.slope * self.steps


class History:
    """Remembers some keys of the rows that it is fed.

    Args:
        keys: to remember; others are passed over.
        window: steps of a trend.
        smooth: steps of a level and of the start.
    """

    def __init__(self, keys: tuple[str, ...], window: int, smooth: int) -> None:
        self.window, self.smooth = window, smooth
        self.step = 0
        longest = max(window, smooth)
        self._last: dict[str, deque[tuple[int, float]]] = {
            key: deque(maxlen=longest) for key in keys
        }
        self._first: dict[str, list[float]] = {key: [] for key in keys}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a step: ``{"step": ..., key: figure}``. What is not finite counts as absent."""
        self.step = int(row["step"])
        for key, points in self._last.items():
            value = row.get(key)
            if value is None or not math.isfinite(value):
                continue
            points.append((self.step, float(value)))
            if len(self._first[key]) < self.smooth:
                self._first[key].append(float(value))

    def trend(self, key: str) -> Trend | None:
        """Trend over the window; None with fewer points than half of it, or than three."""
        points = [p for p in self._last[key] if p[0] > self.step - self.window]
        if len(points) < max(3, self.window / 2):
            return None
        return Trend(theil_sen(points), points[-1][0] - points[0][0])

    def level(self, key: str) -> float | None:
        """Median over the last `smooth` steps; None with figures in fewer than half of them."""
        if self.step < self.smooth:
            return None
        values = [value for step, value in self._last[key] if step > self.step - self.smooth]
        return median(values) if values and 2 * len(values) >= self.smooth else None

    def start(self, key: str) -> float | None:
        """Median of the first `smooth` figures; None until there are so many."""
        first = self._first[key]
        return median(first) if len(first) == self.smooth else None

    def first_and_last(self, key: str) -> tuple[float, float] | None:
        """The first and the newest figure of what is not measured in every step."""
        return (self._first[key][0], self._last[key][-1][1]) if self._last[key] else None
