"""avg@k, pass@k and maj@k of one problem."""

from __future__ import annotations

import pytest

from cooper.evaluation.scores import average_at_k, majority_at_k, pass_at_k
from cooper.types import Status, Verdict

STATUS = {"C": Status.CORRECT, "I": Status.INCORRECT, "U": Status.UNDECIDED}


def samples(*votes: str) -> list[Verdict]:
    """Read "C:7" as a correct sample that answered 7; "I" as one without an answer."""
    pairs = [vote.partition(":") for vote in votes]
    return [Verdict(STATUS[letter], "", answer or None) for letter, _, answer in pairs]


@pytest.mark.parametrize(
    ("votes", "average", "passed"),
    [
        (("C:7", "I:8", "I:9", "U:x"), 0.25, 1.0),
        (("I:8", "U:x"), 0.0, 0.0),
        (("C:7", "C:7"), 1.0, 1.0),
    ],
)
def test_average_and_pass(votes: tuple[str, ...], average: float, passed: float) -> None:
    assert average_at_k(samples(*votes)) == average
    assert pass_at_k(samples(*votes)) == passed


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        (("C:7", "C:7", "I:8"), 1.0),
        (("C:7", "I:8", "I:8"), 0.0),
        (("C:7", "I:8"), 1.0),  # a tie goes to the answer given first
        (("I:8", "C:7"), 0.0),
        (("I:8", "C:7", "C:7", "I:8"), 0.0),
        (("I", "I", "C:7"), 1.0),  # no answer, no vote
        (("I", "I"), 0.0),
        (("U:x", "U:x", "C:7"), 0.0),
        (("C:7", "C:7.0", "I:8", "I:8"), 0.0),  # answers are compared as text
    ],
)
def test_majority(votes: tuple[str, ...], expected: float) -> None:
    assert majority_at_k(samples(*votes)) == expected
