"""Labelled completions from every form of table, and what each broken row is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cooper.data import TableProblems
from cooper.data.labelled import read_labelled, to_row
from cooper.data.tables import read_table
from cooper.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"question": "2+2?", "reference_answer": "4", "completion": "4", "label": 1, "source": "a"},
    {"question": "2+3?", "reference_answer": "5", "completion": "", "label": 0, "source": "b"},
]


def jsonl(folder: Path) -> Path:
    path = folder / "set.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    return path


def parquet(folder: Path) -> Path:
    from datasets import Dataset

    path = folder / "set.parquet"
    Dataset.from_list(ROWS).to_parquet(str(path))
    return path


def parquet_folder(folder: Path) -> Path:
    from datasets import Dataset

    (folder / "data").mkdir()
    for number, row in enumerate(ROWS):
        Dataset.from_list([row]).to_parquet(str(folder / "data" / f"train-{number}.parquet"))
    return folder


def saved(folder: Path) -> Path:
    from datasets import Dataset, DatasetDict

    DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk(str(folder / "set"))
    return folder / "set"


@pytest.mark.parametrize("write", [jsonl, parquet, parquet_folder, saved])
def test_every_form_gives_the_same_rows(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    found = read_labelled(path)
    assert [to_row(item) for item in found.items] == ROWS
    assert found.skipped == 0


def test_problems_come_from_parquet_too(tmp_path: Path) -> None:
    problems = TableProblems(str(parquet(tmp_path)), reference_column="reference_answer")
    assert [(p.id, p.reference) for p in problems] == [("set:1", "4"), ("set:2", "5")]


def test_a_split_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    part = Dataset.from_list(ROWS)
    DatasetDict(train=part, test=part.select([0])).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="split=None: the data set has train, test; name one"):
        list(read_table(tmp_path / "set"))
    assert len(list(read_table(tmp_path / "set", split="test"))) == 1


BROKEN = {
    '{"question": "q", "reference_answer": "1", "label": 1}': "no column 'completion'",
    '{"question": "q", "completion": "1", "label": 1}': "no column 'reference_answer'",
    '{"question": "q", "reference_answer": "1", "completion": "1"}': "no column 'label'",
    '{"question": "q", "reference_answer": "1", "completion": "1", "label": 2}': "'label' is 2",
    '{"question": "q", "reference_answer": "1", "completion": "1", "label": null}': "is None",
    '{"question": "q", "reference_answer": "1", "completion": "1", "label": [1]}': r"is \[1\]",
    '{"question": "q", "reference_answer": "1", "completion": "1", "label": 0.5}': "is 0.5",
    '{"question": "q", "reference_answer": "1", "completion": null, "label": 1}': "is None",
    '{"question": " ", "reference_answer": "1", "completion": "1", "label": 1}': "is ' '",
    '{"question": "q", ': "broken JSON .* at column 19",
    "[1]": "list where a JSON object is needed",
}


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_row_is_named_or_skipped(line: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    path.write_text(path.read_text() + "\n" + line)
    with pytest.raises(DataError, match=rf"set\.jsonl, line 4: .*{BROKEN[line]}"):
        read_labelled(path)
    found = read_labelled(path, skip_bad=True)
    assert (len(found.items), found.skipped) == (2, 1)
    assert "line 4" in found.first_skipped


def test_both_labels_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "right.jsonl"
    path.write_text(json.dumps(ROWS[0]))
    with pytest.raises(DataError, match="1 right and 0 wrong"):
        read_labelled(path)
    assert len(read_labelled(path, both=False).items) == 1


@pytest.mark.parametrize("name", ["none.jsonl", "./none", "a/b/c"])
def test_no_such_table(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_labelled(name)


def test_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    path.write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_labelled(path)
