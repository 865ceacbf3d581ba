"""JSON Lines files: what is read, and what each broken one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cooper.data import JsonlProblems
from cooper.errors import DataError


def write(folder: Path, *lines: str, name: str = "set.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_reads_problems(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"question": "q1", "answer": "7", "id": 12, "source": "gsm8k"}',
        "",
        '{"question": "é ½", "answer": "\\\\frac{1}{2}"}',
    )
    first, second = JsonlProblems(path)
    assert (first.id, first.question, first.reference, first.source) == ("12", "q1", "7", "gsm8k")
    assert (second.id, second.question) == ("set:3", "é ½")  # the line of the file
    assert (second.reference, second.source) == ("\\frac{1}{2}", "set")


@pytest.mark.parametrize(
    ("question", "reference"),
    [("question", "answer"), ("problem", "solution"), ("prompt", "final_answer")],
)
def test_known_column_names(tmp_path: Path, question: str, reference: str) -> None:
    (problem,) = JsonlProblems(write(tmp_path, f'{{"{question}": "q", "{reference}": "r"}}'))
    assert (problem.question, problem.reference) == ("q", "r")


def test_named_columns_win(tmp_path: Path) -> None:
    path = write(tmp_path, '{"question": "no", "answer": "no", "frage": "q", "antwort": "r"}')
    (problem,) = JsonlProblems(path, question_column="frage", reference_column="antwort")
    assert (problem.question, problem.reference) == ("q", "r")


@pytest.mark.parametrize(("value", "text"), [("7", "7"), ("-3.5", "-3.5"), ("0", "0")])
def test_numbers_as_answers(tmp_path: Path, value: str, text: str) -> None:
    (problem,) = JsonlProblems(write(tmp_path, f'{{"question": "q", "answer": {value}}}'))
    assert problem.reference == text


@pytest.mark.parametrize("value", ["true", "null", '""', '"  "', "[1]"])
def test_other_values_are_refused(tmp_path: Path, value: str) -> None:
    path = write(
        tmp_path, '{"question": "q", "answer": "7"}', f'{{"question": "q", "answer": {value}}}'
    )
    with pytest.raises(DataError, match="line 2: column 'answer'"):
        JsonlProblems(path)


def test_limit(tmp_path: Path) -> None:
    path = write(tmp_path, *[f'{{"question": "q{i}", "answer": "7"}}' for i in range(5)])
    assert [p.question for p in JsonlProblems(path, limit=2)] == ["q0", "q1"]
    assert len(JsonlProblems(path)) == 5
    assert [p.question for p in JsonlProblems(path)[1:3]] == ["q1", "q2"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"question": "q", "answer": "7"}', "", '{"question": '], "line 3: broken JSON"),
        (['{"question": "q", "answer": "7"}', "[1, 2]"], "line 2: list where a JSON object"),
        (['{"text": "q", "answer": "7"}'], "line 1: none of the columns question, problem, prompt"),
        (['{"question": "q", "label": "7"}'], "name yours with reference_column"),
        (
            ['{"question": "q", "answer": "7"}', '{"question": "q", "solution": "7"}'],
            "line 2: no column 'answer'",
        ),
        ([""], "holds no rows"),
        (["", "  "], "holds no rows"),
    ],
)
def test_broken_files(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(DataError, match=message) as caught:
        JsonlProblems(path)
    assert path in str(caught.value)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "Wie groß?", "answer": "7"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        JsonlProblems(str(path))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        JsonlProblems(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"holds no data set of save_to_disk and no \*\.parquet"):
        JsonlProblems(str(tmp_path))
