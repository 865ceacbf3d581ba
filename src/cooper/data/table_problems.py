"""Problems from a table on disk or on the hub."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from cooper.data.columns import (
    find_columns,
    id_of,
    question_of,
    reference_of,
    source_of,
    under_its_name,
)
from cooper.data.tables import BadRows, read_table
from cooper.errors import DataError
from cooper.types import Problem


class TableProblems(Sequence[Problem]):
    """Problems of a JSON Lines, JSON or Parquet file, a folder, or a data set of the hub.

    Columns in our form (question, answer), TRL's (prompt, solution), veRL's (data_source, prompt,
    reward_model.ground_truth) and those of common data sets are found by themselves
    (:mod:`cooper.data.columns`). A reference that is a worked solution is cut to its final answer
    (:func:`cooper.data.references.final_answer`).

    Args:
        path: file; folder of ``save_to_disk``, of Parquet files, or a copy of a data set's
            repository; or hub id.
        split: train, test ...; needed where there are several.
        subset: configuration of the data set (GSM8K: main); needed where there are several.
        revision: commit, tag or branch on the hub; name one, and the data stay the same.
        question_column: by default the first known one. A dot goes into a nested column
            (``extra_info.question``), a plus joins two texts (``Body+Question``).
        reference_column: the same for the reference answer.
        source: name of the set in logs; by default the row's own `source` or `data_source`, else
            the file's or data set's name.
        limit: keep only the first rows; 0: all.
        skip_bad: leave out rows without question or reference, and count them in `skipped`; by
            default the first one is an error.

    Raises:
        DataError: no such table, split or subset, no rows, a missing column or an empty value.
    """

    def __init__(
        self,
        path: str,
        split: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        question_column: str | None = None,
        reference_column: str | None = None,
        source: str | None = None,
        limit: int = 0,
        skip_bad: bool = False,
    ) -> None:
        bad = BadRows(skip_bad)
        where = {"split": split, "subset": subset, "revision": revision}
        first = next(read_table(path, bad=BadRows(skip_bad), **where), None)
        if first is None:
            raise DataError(f"{path}: holds no rows; at least one problem is needed")
        columns = find_columns(
            first[0], under_its_name(first[1]), question_column, reference_column
        )
        stem = Path(path).stem
        self._problems: list[Problem] = []
        rows = read_table(path, bad=bad, columns=columns.top, **where)
        for place, row in itertools.islice(rows, limit or None):
            row = under_its_name(row)
            try:
                question, system = question_of(place, row, columns.question)
                reference = reference_of(place, row, columns.reference)
            except DataError as error:
                bad(error)
                continue
            self._problems.append(
                Problem(
                    id=id_of(row, f"{stem}:{place.rpartition(' ')[2]}"),
                    question=question,
                    reference=reference,
                    source=source or source_of(row, stem),
                    meta={} if system is None else {"system_prompt": system},
                )
            )
        self.skipped, self.first_skipped = bad.count, bad.first
        if not self._problems:
            raise DataError(f"{path}: all {bad.count} rows are bad; the first one: {bad.first}")

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
