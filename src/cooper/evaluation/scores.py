"""Scores of a problem from the verdicts on its k samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb

import torch

from cooper.types import Verdict


def average_at_k(verdicts: Sequence[Verdict]) -> float:
    """Share of the samples that are CORRECT; UNDECIDED counts as not correct."""
    return sum(v.correct for v in verdicts) / len(verdicts)


def pass_at_k(verdicts: Sequence[Verdict], k: int | None = None) -> float:
    """Chance that one of k samples is CORRECT, without bias (Chen et al. 2107.03374, eq. 1).

    1 - C(n - c, k) / C(n, k), where c of the n samples are CORRECT.

    Args:
        verdicts: on n samples.
        k: at most n; by default n.

    Raises:
        ValueError: k lies outside 1 to n.
    """
    n, right = len(verdicts), sum(v.correct for v in verdicts)
    k = n if k is None else k
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples: k must lie in 1 to {n}")
    return 1.0 - comb(n - right, k) / comb(n, k)


def majority_at_k(verdicts: Sequence[Verdict]) -> float:
    """1 if the answer given most often is CORRECT.

    Answers are compared as text; equal votes go to the answer given first; samples without an
    answer have no vote.
    """
    votes = Counter(v.answer for v in verdicts if v.answer is not None)
    if not votes:
        return 0.0
    winner = votes.most_common(1)[0][0]
    return float(any(v.correct for v in verdicts if v.answer == winner))


def bootstrap_mean(
    values: Sequence[float], resamples: int, rng: torch.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over problems.

    The samples of one problem hang together, so problems are drawn, not samples.

    Args:
        values: one a problem.
        resamples: draws of as many problems with replacement.
        rng: source of the draws.
        level: share of the resampled means inside.
    """
    data = torch.tensor(values, dtype=torch.float64)
    means = torch.empty(resamples, dtype=torch.float64)
    for row in range(resamples):
        means[row] = data[torch.randint(len(data), (len(data),), generator=rng)].mean()
    edge = (1 - level) / 2
    low, high = means.quantile(torch.tensor([edge, 1 - edge], dtype=torch.float64)).tolist()
    return low, high
