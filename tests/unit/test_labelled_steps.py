"""Step labels in labelled data."""

from __future__ import annotations

import pytest

from cooper.data.labelled import labelled_row, to_row
from cooper.errors import DataError

ROW = {"question": "q", "reference_answer": "7"}


def test_steps_become_a_completion_whose_blank_lines_part_them() -> None:
    steps = ["one\n\nstill one ", "two"]
    item = labelled_row("f, row 1", {**ROW, "steps": steps, "step_labels": [1, 0]}, steps=True)
    assert item.completion == "one\nstill one\n\ntwo"
    assert item.step_labels == (True, False)
    assert item.label is False  # not all steps are right
    assert labelled_row("x", to_row(item), steps=True).step_labels == item.step_labels


def test_a_completion_with_step_labels() -> None:
    row = {**ROW, "completion": "one\n\ntwo", "step_labels": [True, True]}
    assert labelled_row("x", row, steps=True).label is True
    assert labelled_row("x", {**row, "label": 0}, steps=True).label is False
    assert labelled_row("x", {**row, "label": 0}).step_labels == ()


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"completion": "one\n\ntwo", "step_labels": [1]}, "1 step_labels, and the completion's"),
        ({"steps": ["one"], "step_labels": [1, 0]}, "2 step_labels, and column 'steps' has 1"),
        ({"steps": ["one"], "step_labels": [2]}, "column 'step_labels' is 2"),
        ({"steps": ["one"]}, "column 'step_labels' is None"),
        ({"steps": ["one"], "step_labels": []}, r"column 'step_labels' is \[\]"),
        ({"steps": ["one", ""], "step_labels": [1, 1]}, "column 'steps' is"),
        ({"steps": "one", "step_labels": [1]}, "column 'steps' is 'one'"),
        ({"step_labels": [1]}, "no column 'completion'"),
    ],
)
def test_what_is_refused(row: dict, text: str) -> None:
    with pytest.raises(DataError, match=rf"^f, row 3: .*{text}"):
        labelled_row("f, row 3", {**ROW, **row}, steps=True)
