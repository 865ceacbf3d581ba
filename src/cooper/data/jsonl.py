"""Problems from a JSON Lines file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from cooper.errors import DataError
from cooper.types import Problem

# Our own names first, then those of TRL and of other data sets.
_QUESTION = ("question", "problem", "prompt")
_REFERENCE = ("answer", "reference", "solution", "final_answer")


def read_rows(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """Read the objects of a JSON Lines file with their line numbers; empty lines are passed over.

    Raises:
        DataError: no such file, not UTF-8, or a line that holds no JSON object.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{path}: no such file; give a JSON Lines file (one object a line)")
    rows = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{path}, line {number}: broken JSON ({error.msg} at column "
                        f"{error.colno}); each line must hold one JSON object"
                    ) from error
                if not isinstance(row, dict):
                    raise DataError(
                        f"{path}, line {number}: {type(row).__name__} where a JSON object is "
                        "needed; each line must hold one JSON object"
                    )
                rows.append((number, row))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); convert the file") from error
    return rows


class JsonlProblems(Sequence[Problem]):
    """Problems of a JSON Lines file.

    Args:
        path: the file.
        question_column: column of the question; by default the first of question, problem, prompt.
        reference_column: column of the reference answer; by default the first of answer,
            reference, solution, final_answer.
        limit: keep only the first rows; 0: all.

    Raises:
        DataError: no such file, an empty file, a broken line, a missing column or an empty value.
    """

    def __init__(
        self,
        path: str,
        question_column: str | None = None,
        reference_column: str | None = None,
        limit: int = 0,
    ) -> None:
        rows = read_rows(path)
        if limit:
            rows = rows[:limit]
        if not rows:
            raise DataError(f"{path}: the file holds no rows; at least one problem is needed")
        question = question_column or self._find(path, rows[0], _QUESTION, "question_column")
        reference = reference_column or self._find(path, rows[0], _REFERENCE, "reference_column")
        stem = Path(path).stem
        self._problems = [
            Problem(
                id=str(row.get("id", f"{stem}:{number}")),
                question=self._text(path, number, row, question),
                reference=self._text(path, number, row, reference),
                source=str(row.get("source", stem)),
            )
            for number, row in rows
        ]

    @staticmethod
    def _find(
        path: str, first: tuple[int, dict[str, Any]], names: tuple[str, ...], key: str
    ) -> str:
        number, row = first
        for name in names:
            if name in row:
                return name
        raise DataError(
            f"{path}, line {number}: none of the columns {', '.join(names)} (found: "
            f"{', '.join(row)}); name yours with {key}"
        )

    @staticmethod
    def _text(path: str, number: int, row: dict[str, Any], column: str) -> str:
        if column not in row:
            raise DataError(
                f"{path}, line {number}: no column {column!r} (found: {', '.join(row)}); "
                "every row needs it"
            )
        value = row[column]
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{path}, line {number}: column {column!r} is {value!r}; a non-empty text is needed"
            )
        return value

    def __len__(self) -> int:
        """The number of problems."""
        return len(self._problems)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        """Problem `index`, or a list for a slice."""
        return self._problems[index]
