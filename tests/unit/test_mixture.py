"""Mixtures: their shares, their order, resuming in mid-epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cooper.data import Mixture, ProblemStream, TableProblems
from cooper.data.mixture import select
from cooper.errors import DataError
from cooper.types import Problem


def problems(source: str, count: int) -> list[Problem]:
    return [Problem(id=f"{source}{i}", question=f"{source}{i}", reference="") for i in range(count)]


def test_draws_by_weight_and_largest_remainder() -> None:
    sources = {"a": problems("a", 6), "b": problems("b", 3), "c": problems("c", 1)}
    assert Mixture(sources).draws == {"a": 6, "b": 3, "c": 1}
    # Ten draws in shares of 1/2, 1/4, 1/4: 5, 2.5, 2.5; the first of equal rests is rounded up.
    assert Mixture(sources, {"a": 2, "b": 1, "c": 1}).draws == {"a": 5, "b": 3, "c": 2}


def test_every_source_is_seen_whole_before_it_comes_again() -> None:
    mixture = Mixture({"a": problems("a", 8), "b": problems("b", 2)}, {"a": 1, "b": 1})
    stream = ProblemStream(mixture, batch_size=5, num_batches=16, seed=3)  # 8 epochs of 10
    drawn = [problem.id for batch in stream for problem in batch]
    for epoch in range(8):
        part = drawn[10 * epoch : 10 * epoch + 10]
        assert Counter(name[0] for name in part) == {"a": 5, "b": 5}
    # 40 draws of 8 problems, 40 of 2: each equally often.
    assert set(Counter(drawn).values()) == {5, 20}
    # The first ten draws of a: a whole pass of 8, and two of the next one.
    of_a = Counter(name for name in drawn[:20] if name[0] == "a")
    assert (len(of_a), sorted(of_a.values())) == (8, [1] * 6 + [2] * 2)


def test_resuming_in_mid_epoch_gives_what_would_have_come() -> None:
    mixture = Mixture({"a": problems("a", 7), "b": problems("b", 4)}, {"a": 1, "b": 3})
    whole = [[p.id for p in b] for b in ProblemStream(mixture, 3, 12, seed=1)]
    later = ProblemStream(mixture, 3, 12, seed=1)
    later.start, later.position = 5, 15
    assert [[p.id for p in b] for b in later] == whole[5:]
    other = [[p.id for p in b] for b in ProblemStream(mixture, 3, 12, seed=2)]
    assert other != whole


def test_a_selection_stays_a_mixture() -> None:
    mixture = Mixture({"a": problems("a", 4), "b": problems("b", 4)}, {"a": 3, "b": 1})
    kept = select(mixture, [0, 2, 4, 5])
    assert isinstance(kept, Mixture)
    assert [p.id for p in kept] == ["a0", "a2", "b0", "b1"]
    assert kept.draws == {"a": 3, "b": 1}
    assert select(mixture, range(8)) is mixture
    assert [p.id for p in mixture[3:5]] == ["a3", "b0"]
    assert mixture[-1].id == "b3"


def test_a_source_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"question": "q", "answer": "1"}')
    assert isinstance(Mixture({"a": str(path)}).sources["a"], TableProblems)


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ({}, None, "no sources"),
        ({"a": 0}, None, "source a holds no problems"),
        ({"a": 1, "b": 1}, {"a": 1}, "give each source its weight"),
        ({"a": 1}, {"a": 1, "b": 1}, "give each source its weight"),
        ({"a": 1}, {"a": 0}, "weight 0 of a; give a number above 0"),
        ({"a": 1}, {"a": float("nan")}, "give a number above 0"),
    ],
)
def test_bad_mixtures(
    sizes: dict[str, int], weights: dict[str, float] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Mixture({name: problems(name, size) for name, size in sizes.items()}, weights)
