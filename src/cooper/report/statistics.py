"""Means over runs: of figures with their interval, of curves with their band."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mpmath import betainc, findroot

Series = tuple[list[int], list[float]]


@functools.cache
def t_quantile(freedom: int) -> float:
    """Where 95 % of Student's t distribution lie between -t and t.

    P(|T| > t) is the regularised incomplete beta function I_x(freedom / 2, 1 / 2) at
    x = freedom / (freedom + t^2); Abramowitz and Stegun, 26.7.1 and 26.5.27.

    Args:
        freedom: degrees of freedom, 1 or more.
    """

    def beyond(t: float) -> float:
        share = betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True)
        return share - 0.05

    return float(findroot(beyond, (1.9, 13.0), solver="anderson"))


@dataclass(frozen=True)
class Mean:
    """A mean over runs.

    Attributes:
        value: the mean.
        half: half of the 95 % t interval's length; None for one run, which has none.
        runs: how many.
    """

    value: float
    half: float | None
    runs: int


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean and 95 % t interval, sample standard deviation; None of nothing."""
    if not values:
        return None
    half = None
    if len(values) > 1:
        half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Mean(statistics.fmean(values), half, len(values))


@dataclass(frozen=True)
class Curve:
    """A curve over runs.

    Attributes:
        steps: at which any of the runs was measured.
        mean: over the runs that reach the step.
        low: lowest of them.
        high: highest of them.
        runs: how many they are.
    """

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    runs: list[int]


def average(runs: Sequence[Series]) -> Curve:
    """Average curves, each between its own first and last step.

    A run that was not measured at a step between the two counts there with the straight line
    between its neighbours: left out, it would make the mean jump.
    """
    runs = [run for run in runs if run[0]]
    grid = sorted({step for steps, _ in runs for step in steps})
    table = np.full((len(runs), len(grid)), np.nan)
    for row, (steps, values) in zip(table, runs, strict=True):
        row[:] = np.interp(grid, steps, values, left=math.nan, right=math.nan)
    columns = [[v for v in column if not math.isnan(v)] for column in table.T.tolist()]
    return Curve(
        steps=grid,
        mean=[statistics.fmean(column) for column in columns],
        low=[min(column) for column in columns],
        high=[max(column) for column in columns],
        runs=[len(column) for column in columns],
    )


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values."""
    return [
        sum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))
    ]
