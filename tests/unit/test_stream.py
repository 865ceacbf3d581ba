"""The order of problems: permutations, batches over an epoch's end, resuming."""

from __future__ import annotations

import pytest

from cooper.data import ProblemStream
from cooper.errors import DataError
from cooper.types import Problem

PROBLEMS = [Problem(str(i), f"q{i}", "7") for i in range(7)]


def stream(seed: int = 0, batch_size: int = 3, num_batches: int = 14) -> ProblemStream:
    return ProblemStream(PROBLEMS, batch_size, num_batches, seed)


def ids(batches: list[list[Problem]]) -> list[str]:
    return [problem.id for batch in batches for problem in batch]


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    flat = ids(list(stream()))  # 14 * 3 = 6 epochs of 7; batches reach over their ends
    epochs = [flat[at : at + 7] for at in range(0, 42, 7)]
    for epoch in epochs:
        assert sorted(epoch) == [p.id for p in PROBLEMS]
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batches_are_full_and_as_many_as_asked() -> None:
    batches = list(stream())
    assert [len(batch) for batch in batches] == [3] * 14
    assert len(stream()) == 14


def test_seed_decides_the_order() -> None:
    assert ids(list(stream(0))) == ids(list(stream(0)))
    assert ids(list(stream(0))) != ids(list(stream(1)))


@pytest.mark.parametrize("done", [0, 2, 3, 14])
def test_start_goes_on_where_a_run_stopped(done: int) -> None:
    resumed = stream()
    resumed.start, resumed.position = done, 3 * done
    assert list(resumed) == list(stream())[done:]
    assert len(resumed) == 14 - done


def test_a_batch_as_large_as_the_data() -> None:
    batches = list(stream(batch_size=7, num_batches=2))
    assert [sorted(p.id for p in batch) for batch in batches] == [sorted("0123456")] * 2


def test_too_few_problems() -> None:
    with pytest.raises(DataError, match=r"7 problems where data\.problems_per_step=8"):
        stream(batch_size=8)
    with pytest.raises(DataError, match="0 problems"):
        ProblemStream([], 1, 1, 0)
