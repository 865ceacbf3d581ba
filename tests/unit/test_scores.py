"""avg@k, pass@k and maj@k of one problem."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cooper.evaluation.scores import average_at_k, bootstrap_mean, majority_at_k, pass_at_k
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


@pytest.mark.parametrize(
    ("letters", "k", "chance"),
    [
        ("CIII", 1, 1 / 4),
        ("CIII", 2, 1 / 2),  # 1 - C(3,2)/C(4,2) = 1 - 3/6
        ("CCII", 2, 5 / 6),  # 1 - C(2,2)/C(4,2)
        ("CCCI", 2, 1.0),  # two wrong ones cannot be drawn
        ("IIUU", 4, 0.0),
        ("CIIIIIII", 4, 1 / 2),  # 1 - C(7,4)/C(8,4) = 1 - 35/70
    ],
)
def test_pass_at_k_without_bias(
    verdicts_of: Callable[[str], list[Verdict]], letters: str, k: int, chance: float
) -> None:
    assert pass_at_k(verdicts_of(letters), k) == pytest.approx(chance)


def test_pass_at_k_of_too_few_samples(verdicts_of: Callable[[str], list[Verdict]]) -> None:
    for k in (0, 3):
        with pytest.raises(ValueError, match="k must lie in 1 to 2"):
            pass_at_k(verdicts_of("CI"), k)


def test_bootstrap_interval_of_a_mean() -> None:
    rng = torch.Generator().manual_seed(0)
    assert bootstrap_mean([0.5] * 7, 50, rng) == (0.5, 0.5)
    # 400 coins: the standard error is 0.5 / 20, the interval about 1.96 of it to each side.
    low, high = bootstrap_mean([0.0, 1.0] * 200, 4000, rng)
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
