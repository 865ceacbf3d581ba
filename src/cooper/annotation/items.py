"""The completions that are to be labelled, read from a table and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cooper.data.labelled import label_of
from cooper.data.tables import BadRows, read_table, text_of
from cooper.errors import DataError

# Our own names first, then those of TRL and of other data sets.
_QUESTION = ("question", "problem", "prompt")
_REFERENCE = ("reference_answer", "reference", "answer", "ground_truth", "solution", "final_answer")
_COMPLETION = ("completion", "response")
_COMPLETIONS = ("completions", "responses")


@dataclass(frozen=True)
class Item:
    """A completion with its problem; a problem alone has an empty completion."""

    where: str  # "FILE, line 3": for messages
    id: str
    question: str
    reference: str
    completion: str = ""
    source: str = ""
    label: bool | None = None  # what the input says; compared with, never used

    @cached_property
    def key(self) -> str:
        """Digest of what a verdict depends on. Equal items are verified once."""
        return content_key(self.question, self.reference, self.completion)


def content_key(*parts: Any) -> str:
    """Digest of plain values: 32 hexadecimal digits, the same on every machine."""
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:32]


def digest_of(items: Iterable[Item]) -> str:
    """Digest of the content of a data set, in its order."""
    return content_key(*(item.key for item in items))


def read_items(
    path: str | Path,
    *,
    completions: bool = True,
    question_column: str | None = None,
    reference_column: str | None = None,
    completion_column: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    bad: BadRows | None = None,
) -> list[Item]:
    """Read completions with their problems, or problems alone, and check every row.

    A row has a question (``question``, ``problem``, ``prompt``; a conversation gives its last user
    message), a reference answer (``reference_answer``, ``reference``, ``answer``,
    ``ground_truth``, ``solution``, ``final_answer``, or veRL's ``reward_model.ground_truth``) and a
    completion (``completion``, ``response``) or a list of them (``completions``, ``responses``).
    ``id``, ``source`` (veRL: ``data_source``) and ``label`` may be there.

    Args:
        path: as in :func:`cooper.data.tables.read_table`.
        completions: whether rows need completions; false reads problems.
        question_column: another name.
        reference_column: another name.
        completion_column: another name, of a text or a list of texts.
        split: of a Hugging Face data set.
        revision: on the hub.
        bad: takes rows that cannot be used; by default the first one is an error.

    Returns:
        one item a completion, in the order of the rows.

    Raises:
        DataError: a row cannot be used, or there is none.
    """
    bad = bad or BadRows()
    items: list[Item] = []
    question = (question_column,) if question_column else _QUESTION
    reference = (reference_column,) if reference_column else _REFERENCE
    columns = (completion_column,) if completion_column else (*_COMPLETION, *_COMPLETIONS)
    for where, row in read_table(path, split=split, revision=revision, bad=bad):
        try:
            problem = Item(
                where=where,
                id=_text(row, "id") or _number(where),
                question=_question(where, row, question),
                reference=_reference(where, row, reference, named=reference_column is not None),
                source=_text(row, "source") or _text(row, "data_source") or Path(path).stem,
                label=None if row.get("label") is None else label_of(where, row),
            )
            items += _completed(problem, row, columns) if completions else [problem]
        except DataError as error:
            bad(error)
    if not items:
        what = "completion" if completions else "problem"
        why = f" ({bad.count} rows were skipped; the first: {bad.first})" if bad.count else ""
        raise DataError(f"{path}: no {what}; at least one row is needed{why}")
    return items


def _text(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value)


def _number(where: str) -> str:
    """``FILE, line 3`` as ``FILE:3``, without folder and suffix."""
    file, _, number = where.rpartition(", ")
    return f"{Path(file).stem}:{number.rpartition(' ')[2]}"


def _question(where: str, row: dict[str, Any], names: Sequence[str]) -> str:
    name = next((name for name in names if name in row), None)
    if name is not None and isinstance(row[name], list):
        # TRL's and veRL's conversations; what was said before is part of the prompt, not the task.
        users = [m for m in row[name] if isinstance(m, dict) and m.get("role") == "user"]
        if not users:
            raise DataError(
                f"{where}: column {name!r} is a list without a message of the role 'user'; a text "
                "or a conversation is needed"
            )
        return text_of(f"{where}, column {name!r}", users[-1], ("content",))
    return text_of(where, row, tuple(names))


def _reference(where: str, row: dict[str, Any], names: Sequence[str], named: bool) -> str:
    nested = row.get("reward_model")
    if not named and isinstance(nested, dict) and not any(name in row for name in names):
        return text_of(f"{where}, column 'reward_model'", nested, ("ground_truth",))
    return text_of(where, row, tuple(names))


def _completed(problem: Item, row: dict[str, Any], columns: Sequence[str]) -> list[Item]:
    """The items of a row's completions; those of a list have the row's id with their number."""
    where = problem.where
    name = next((name for name in columns if name in row), columns[0])
    if not isinstance(row.get(name), list):
        # It may be empty: a policy may end at once, and that is wrong, not broken.
        return [with_completion(problem, text_of(where, row, (name,), may_be_empty=True))]
    texts = row[name]
    if not texts:
        raise DataError(f"{where}: column {name!r} is an empty list; at least one text is needed")
    if problem.label is not None:
        raise DataError(
            f"{where}: column 'label' is one label for a list of completions; write one row for "
            "each completion, or leave the column out"
        )
    return [
        with_completion(
            problem, text_of(where, {f"{name}[{k}]": text}, (f"{name}[{k}]",), may_be_empty=True), k
        )
        for k, text in enumerate(texts)
    ]


def with_completion(problem: Item, completion: str, number: int | None = None) -> Item:
    """A problem's item with a completion; the number of several goes into its id."""
    return Item(
        where=problem.where,
        id=problem.id if number is None else f"{problem.id}/{number}",
        question=problem.question,
        reference=problem.reference,
        completion=completion,
        source=problem.source,
        label=problem.label,
    )
