"""How far a rule and a judge agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cooper.types import Status, Verdict

STATUSES = (Status.CORRECT, Status.INCORRECT, Status.UNDECIDED)


@dataclass
class Agreement:
    """Counts of rule against judge, by status.

    Attributes:
        counts: (rule, judge) -> rows.
    """

    counts: dict[tuple[Status, Status], int] = field(
        default_factory=lambda: {(rule, judge): 0 for rule in STATUSES for judge in STATUSES}
    )

    def add(self, rule: Verdict, judge: Verdict, rows: int = 1) -> None:
        """Count rows with these verdicts."""
        self.counts[rule.status, judge.status] += rows

    @property
    def _decided(self) -> tuple[int, int, int, int]:
        yes, no = Status.CORRECT, Status.INCORRECT
        return (
            self.counts[yes, yes], self.counts[yes, no], self.counts[no, yes], self.counts[no, no]
        )  # fmt: skip

    @property
    def decided(self) -> int:
        """Rows that both decided."""
        return sum(self._decided)

    @property
    def share(self) -> float | None:
        """Share of those on which they agree; None without any."""
        both, _, _, neither = self._decided
        return (both + neither) / self.decided if self.decided else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa over the rows that both decided; None where it is not defined."""
        return cohen_kappa(*self._decided)

    def matrix(self) -> dict[str, dict[str, int]]:
        """Rule status -> judge status -> rows."""
        return {
            rule.value: {judge.value: self.counts[rule, judge] for judge in STATUSES}
            for rule in STATUSES
        }


def cohen_kappa(both: int, first_only: int, second_only: int, neither: int) -> float | None:
    """Cohen's kappa of two raters: (p_o - p_e) / (1 - p_e) (Cohen 1960, eq. 1).

    p_o is the share of rows on which they agree, p_e the share expected of independent raters
    with the same marginals.

    Args:
        both: rows that both call right.
        first_only: rows that only the first calls right.
        second_only: rows that only the second calls right.
        neither: rows that none calls right.

    Returns:
        kappa in [-1, 1]; None without rows, or where p_e is 1: both gave all rows one label, so
        that agreement by chance cannot be told from any other.
    """
    total = both + first_only + second_only + neither
    if not total:
        return None
    first, second = both + first_only, both + second_only
    # In whole numbers, so that p_e = 1 is no matter of rounding.
    expected = first * second + (total - first) * (total - second)
    if expected == total**2:
        return None
    return ((both + neither) * total - expected) / (total**2 - expected)


def agreement_with_labels(
    verdicts: Iterable[tuple[Verdict | None, bool]],
) -> dict[str, int | float | None]:
    """How far verdicts agree with labels that were there before.

    Args:
        verdicts: a verdict (None: there is none) and the label.

    Returns:
        rows with a decided verdict, the share of them that agrees, and kappa.
    """
    agreement = Agreement()
    for verdict, label in verdicts:
        if verdict is not None:
            agreement.add(verdict, Verdict(Status.CORRECT if label else Status.INCORRECT))
    return {"decided": agreement.decided, "agree": agreement.share, "kappa": agreement.kappa}
