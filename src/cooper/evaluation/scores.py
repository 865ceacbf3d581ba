"""Scores of a problem from the verdicts on its k samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cooper.types import Verdict


def average_at_k(verdicts: Sequence[Verdict]) -> float:
    """Share of the samples that are CORRECT; UNDECIDED counts as not correct."""
    return sum(v.correct for v in verdicts) / len(verdicts)


def pass_at_k(verdicts: Sequence[Verdict]) -> float:
    """1 if any sample is CORRECT: 1 - C(n - c, k) / C(n, k) with n = k."""
    return float(any(v.correct for v in verdicts))


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
