"""Copies of a question, within a training set and in evaluation sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cooper.data import benchmark
from cooper.data.overlap import clean, find_overlap, normalised
from cooper.errors import DataError
from cooper.types import Problem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is $2 + 3$ ?", "what is 2+3"),
        ("Find \\( x \\), if\n\\[ x^{2} = 4. \\]", "Find $x$ if $x^2=4$."),
        ("\\dfrac{1}{2}\\,\\text{ cm}", "\\frac{1}{2} cm"),
        ("Tom\u2019s \u201cpen\u201d \u2013 5", 'Tom\'s "pen" - 5'),
        ("\\left( 1, 2 \\right)", "(1,2)"),
        ("Ann, who has 3, and Bob:", "Ann who has 3 and Bob"),
    ],
)
def test_what_copies_differ_in(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2 + 3", "2 - 3"),
        ("1.5 apples", "15 apples"),
        ("2:1", "21"),
        ("(1, 2)", "(12)"),
        ("5!", "5"),
        ("f'(x)", "f(x)"),
        ("3*4", "34"),
        ("x < 3", "x > 3"),
        ("\\sqrt{2}", "2"),
        ("x_1", "x_2"),
    ],
)
def test_what_makes_another_question(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


TRAIN = [
    Problem("0", "What is 1+1?", "2"),
    Problem("1", "what is 1 + 1", "2"),
    Problem("2", "What is 1+1 ?", "3"),
    Problem("3", "What is 2+2?", "4"),
    Problem("4", "What is 3+3?", "6"),
]


@pytest.fixture
def benchmarks(tmp_path: Path) -> dict[str, Sequence[Problem]]:
    """Evaluation sets of which one is a benchmark."""
    (tmp_path / "b.jsonl").write_text('{"question": "what is 3+3", "answer": "6"}')
    return {**HELD, "svamp": benchmark("svamp", path=str(tmp_path / "b.jsonl"))}


HELD = {"a": [Problem("x", "what is $2+2$?", "4")], "b": [Problem("y", "other", "1")]}


def test_finds_repetitions_conflicts_and_overlap() -> None:
    found = find_overlap(TRAIN, HELD)
    assert (found.repeated, found.conflicting) == ([1, 2], [2])
    assert found.shared == {"a": [3], "b": []}


def test_overlap_with_benchmarks_is_dropped_and_all_is_counted(
    benchmarks: dict[str, Sequence[Problem]],
) -> None:
    cleaned = clean(TRAIN, benchmarks)
    assert [p.id for p in cleaned.problems] == ["0", "1", "2", "3"]
    assert cleaned.report["overlap"] == {"a": ["3"], "b": [], "svamp": ["4"]}
    assert cleaned.report["conflicting_duplicates"] == ["2"]
    assert "1 problems stand in the evaluation set a too, kept" in cleaned.notes[0]
    assert "1 problems stand in the evaluation set svamp too, dropped" in cleaned.notes[1]
    assert "2 problems are copies of earlier ones, 1 of them" in cleaned.notes[2]
    assert [p.id for p in clean(TRAIN, benchmarks, "all").problems] == ["0", "1", "2"]
    assert [p.id for p in clean(TRAIN, benchmarks, "none", True).problems] == ["0", "3", "4"]
    assert clean(TRAIN[4:], HELD).problems == TRAIN[4:]
    assert not clean(TRAIN[4:], HELD).notes
    with pytest.raises(DataError, match=r"all 1 problems stand in the evaluation sets a, b"):
        clean([TRAIN[3]], HELD, "all")
