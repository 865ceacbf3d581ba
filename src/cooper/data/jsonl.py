"""Problems from a JSON Lines file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from cooper.data.tables import Row, read_table, text_of
from cooper.errors import DataError
from cooper.types import Problem

# Our own names first, then those of TRL and of other data sets.
_QUESTION = ("question", "problem", "prompt")
_REFERENCE = ("answer", "reference", "solution", "final_answer")


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
        rows = list(itertools.islice(read_table(path), limit or None))
        if not rows:
            raise DataError(f"{path}: the file holds no rows; at least one problem is needed")
        question = question_column or self._find(rows[0], _QUESTION, "question_column")
        reference = reference_column or self._find(rows[0], _REFERENCE, "reference_column")
        stem = Path(path).stem
        self._problems = [
            Problem(
                id=str(row.get("id", f"{stem}:{where.rpartition(' ')[2]}")),
                question=text_of(where, row, (question,)),
                reference=text_of(where, row, (reference,)),
                source=str(row.get("source", stem)),
            )
            for where, row in rows
        ]

    @staticmethod
    def _find(first: Row, names: tuple[str, ...], key: str) -> str:
        where, row = first
        for name in names:
            if name in row:
                return name
        raise DataError(
            f"{where}: none of the columns {', '.join(names)} (found: {', '.join(row)}); name "
            f"yours with {key}"
        )

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
