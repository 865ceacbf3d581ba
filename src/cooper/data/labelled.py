"""Labelled completions: what a reward model is trained on and measured with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooper.data.tables import BadRows, read_table, text_of
from cooper.errors import DataError
from cooper.steps import BLANK_LINE, split_steps
from cooper.types import LabelledCompletion

# The names of the authors' published data first, then our own older one and those of others.
_REFERENCE = ("reference_answer", "reference", "answer", "ground_truth")
_COMPLETION = ("completion", "response", "solution")
_QUESTION = ("question", "problem", "prompt")
_LABELS = {0: False, 1: True, "0": False, "1": True}  # true and false are 1 and 0


@dataclass(frozen=True)
class LabelledSet:
    """The labelled completions of a file, and how many of its rows were passed over."""

    items: tuple[LabelledCompletion, ...]
    skipped: int = 0
    first_skipped: str = ""  # what was wrong with the first one


def read_labelled(
    path: str | Path,
    *,
    split: str | None = None,
    skip_bad: bool = False,
    both: bool = True,
    steps: bool = False,
) -> LabelledSet:
    """Read labelled completions: the authors' published Parquet form, or ours.

    The columns are question, reference_answer, completion and label (1 right, 0 wrong), and
    optionally id and source. ``reference``, ``answer``, ``problem`` and the like are understood.
    For a process head there are ``step_labels``, one for each step: the texts of ``steps``, or what
    blank lines part in the completion. Without a label all steps have to be right.

    Args:
        path: as in :func:`cooper.data.tables.read_table`.
        split: of a Hugging Face data set.
        skip_bad: pass over rows that cannot be used, and count them.
        both: whether right and wrong completions are both needed.
        steps: whether step labels are needed.

    Raises:
        DataError: a broken line, a missing column, a wrong value (unless they are skipped), no
            rows, or only one kind of label where both are needed.
    """
    bad = BadRows(skip_bad)
    items: list[LabelledCompletion] = []
    for where, row in read_table(path, split=split, bad=bad):
        try:
            items.append(labelled_row(where, row, Path(path).stem, steps))
        except DataError as error:
            bad(error)
    if not items:
        why = f" ({bad.count} rows were skipped; the first: {bad.first})" if bad.count else ""
        raise DataError(f"{path}: no labelled completion; at least one row is needed{why}")
    if both:
        require_both(path, items)
    return LabelledSet(tuple(items), bad.count, bad.first)


def require_both(name: object, items: Iterable[LabelledCompletion]) -> None:
    """Check that there are right and wrong completions.

    Raises:
        DataError: there are not.
    """
    labels = [item.label for item in items]
    if not any(labels) or all(labels):
        raise DataError(
            f"{name}: {sum(labels)} right and {len(labels) - sum(labels)} wrong completions; a "
            "reward model needs both"
        )


def labelled_row(
    where: str, row: dict[str, Any], default_source: str = "", steps: bool = False
) -> LabelledCompletion:
    """Read one row.

    Args:
        where: it stands, for messages.
        row: its columns.
        default_source: where it has no column source.
        steps: whether step labels are read, and needed.

    Raises:
        DataError: a column is missing or holds what it must not.
    """
    step_labels: tuple[bool, ...] = ()
    if steps:
        row = _with_steps(where, row)
        step_labels = tuple(row["step_labels"])
        row = {"label": all(step_labels), **row}
    label = label_of(where, row)
    return LabelledCompletion(
        question=text_of(where, row, _QUESTION),
        reference=text_of(where, row, _REFERENCE),
        # A completion may be empty: a policy may end at once, and that is wrong, not broken.
        completion=text_of(where, row, _COMPLETION, may_be_empty=True),
        label=label,
        source=str(row.get("source") or default_source),
        id=str(row.get("id") or ""),
        step_labels=step_labels,
    )


def label_of(where: str, row: dict[str, Any]) -> bool:
    """The label of a row.

    Raises:
        DataError: there is none, or it is neither 1 (right) nor 0 (wrong).
    """
    if "label" not in row:
        raise DataError(f"{where}: no column 'label' (found: {', '.join(map(str, row))})")
    return _label(where, "label", row["label"])


def _label(where: str, column: str, label: Any) -> bool:
    known = isinstance(label, (bool, int, str)) or (isinstance(label, float) and label in (0, 1))
    if not known or label not in _LABELS:
        raise DataError(
            f"{where}: column {column!r} is {label!r}; 1 (right) or 0 (wrong) is needed"
        )
    return _LABELS[label]


def _with_steps(where: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row with a completion whose blank lines part its steps, and a label for each."""
    labels = row.get("step_labels")
    if not isinstance(labels, list) or not labels:
        raise DataError(
            f"{where}: column 'step_labels' is {labels!r}; a list with 1 (right) or 0 (wrong) for "
            "each step is needed"
        )
    labels = [_label(where, "step_labels", label) for label in labels]
    texts = row.get("steps")
    if texts is None:
        number = len(split_steps(text_of(where, row, _COMPLETION, may_be_empty=True)))
        found = f"the completion's blank lines part {number}"
    else:
        if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
            raise DataError(f"{where}: column 'steps' is {texts!r}; a list of texts is needed")
        # Blank lines inside a step would part it when it is scored.
        whole = [BLANK_LINE.sub("\n", text.strip()) for text in texts]
        row = {**row, "completion": "\n\n".join(whole)}
        number = len(texts)
        found = f"column 'steps' has {number}"
    if number != len(labels):
        raise DataError(
            f"{where}: {len(labels)} step_labels, and {found} steps; one label for each step is "
            "needed"
        )
    return {**row, "step_labels": labels}


def to_row(item: LabelledCompletion) -> dict[str, Any]:
    """The columns under which a labelled completion is written."""
    row: dict[str, Any] = {
        "question": item.question,
        "reference_answer": item.reference,
        "completion": item.completion,
        "label": int(item.label),
        "source": item.source,
    }
    if item.step_labels:
        row["step_labels"] = [int(label) for label in item.step_labels]
    return {"id": item.id, **row} if item.id else row
