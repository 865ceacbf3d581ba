"""Rows of a table on disk or hub: JSON Lines, JSON, Parquet, or a Hugging Face data set."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cooper.errors import DataError

Row = tuple[str, dict[str, Any]]  # (where: "FILE, line 3", the columns)


class BadRows:
    """What becomes of rows that cannot be used: the first one is an error, or all are counted.

    Args:
        skip: count them and go on.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.count = 0
        self.first = ""  # what was wrong with the first one

    def __call__(self, error: DataError) -> None:
        """Take a row's error.

        Raises:
            DataError: rows are not to be skipped.
        """
        if not self.skip:
            raise error
        self.count += 1
        self.first = self.first or str(error)


def read_table(
    path: str | Path,
    *,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    bad: BadRows | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[Row]:
    """Read the rows of a table, one after the other.

    Args:
        path: a JSON Lines file, or a JSON file with a list of objects; a Parquet file; a folder
            written by ``datasets.Dataset.save_to_disk``; a folder in the hub's form (Parquet or
            other files, a README.md that names subsets and splits or none); or the hub id of a
            data set.
        split: which split of a Hugging Face data set; needed where it has several.
        subset: which configuration of it; needed where it has several.
        revision: commit, tag or branch on the hub.
        bad: takes lines that hold no JSON object; by default the first one is an error.
        columns: read only those of them that are there, where that is faster; None: all.

    Yields:
        where a row stands, for messages, and its columns.

    Raises:
        DataError: there is no such file, it cannot be read, or a line is broken.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        yield from _folder(file, split, subset, columns)
    elif file.suffix == ".parquet" and file.is_file():
        yield from _parquet(file, columns)
    elif file.suffix == ".json" and file.is_file() and _is_list(file):
        yield from _json(file, str(path), bad or BadRows())
    elif file.is_file():
        yield from _json_lines(file, str(path), bad or BadRows())
    elif file.suffix or str(path).startswith((".", "~", "/")) or str(path).count("/") > 1:
        raise DataError(
            f"{path}: no such file; give a JSON Lines or Parquet file, a folder written by "
            "save_to_disk, or the hub id of a data set"
        )
    else:
        yield from _hub(str(path), split, subset, revision, columns)


def _json_lines(file: Path, name: str, bad: BadRows) -> Iterator[Row]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{name}, line {number}"
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    what = (
                        f"{error.msg} at column {error.colno}"
                        if isinstance(error, json.JSONDecodeError)
                        else "nested too deeply"
                    )
                    bad(
                        DataError(
                            f"{where}: broken JSON ({what}); each line must hold one JSON object"
                        )
                    )
                    continue
                if not isinstance(row, dict):
                    bad(
                        DataError(
                            f"{where}: {type(row).__name__} where a JSON object is needed; each "
                            "line must hold one JSON object"
                        )
                    )
                    continue
                yield where, row
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 ({error.reason}); convert the file") from error


def _is_list(file: Path) -> bool:
    """Whether a JSON file begins as a list; else it is read line by line."""
    with file.open("rb") as stream:
        return stream.read(64).lstrip()[:1] == b"["


def _json(file: Path, name: str, bad: BadRows) -> Iterator[Row]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        what = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise DataError(f"{name}: broken JSON ({what}); it must hold a list of objects") from error
    for number, row in enumerate(rows, start=1):
        where = f"{name}, row {number}"
        if isinstance(row, dict):
            yield where, row
        else:
            bad(DataError(f"{where}: {type(row).__name__} where a JSON object is needed"))


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    # Imported here: JSON Lines need neither Arrow nor its start-up time.
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        table = ParquetFile(file)
        names = table.schema_arrow.names
        wanted = None if columns is None else [name for name in names if name in columns]
        for batch in table.iter_batches(batch_size=1024, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except (ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({_first_line(error)})") from error


def _folder(
    folder: Path, split: str | None, subset: str | None, columns: Sequence[str] | None
) -> Iterator[Row]:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        try:
            found = load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder}: cannot be loaded as a data set ({_first_line(error)})"
            ) from error
        yield from _dataset(found, str(folder), split, columns)
        return
    # As from the hub, by the same code. A copy in a folder's own form has no revision.
    yield from _load(str(folder.absolute()), str(folder), split, subset, None, columns)


def _hub(
    path: str,
    split: str | None,
    subset: str | None,
    revision: str | None,
    columns: Sequence[str] | None,
) -> Iterator[Row]:
    if not path.replace("/", "").strip():
        raise DataError(f"{path!r}: no path; give a file, a folder, or the hub id of a data set")
    yield from _load(path, path, split, subset, revision, columns)


def _load(
    path: str,
    name: str,
    split: str | None,
    subset: str | None,
    revision: str | None,
    columns: Sequence[str] | None,
) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        found = load_dataset(path, name=subset, revision=revision)
    except Exception as error:
        # Network, hub and reader errors have no common class of their own.
        raise DataError(_why_not(error, name, subset, revision)) from error
    yield from _dataset(found, name, split, columns)


def _why_not(error: Exception, name: str, subset: str | None, revision: str | None) -> str:
    """Write in one line why a data set cannot be loaded, and what mends it."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and ("Config name is missing" in text or "not found" in text):
        there = re.search(r"\[[^\]]*\]", text)
        names = there.group().strip("[]").replace("'", "") if there else text
        return f"{name}: subset={subset}: the data set has {names}; name one of them"
    if Path(name).is_dir():
        return (
            f"{name}: cannot be loaded as a data set ({_first_line(error)}); give a folder written "
            "by save_to_disk, or one with Parquet or JSON Lines files"
        )
    at = f" at revision={revision}" if revision else ""
    return (
        f"{name}: no such file here, and as a data set of the hub it cannot be loaded{at} "
        f"({_first_line(error)}); mend the name, or the network, or give a folder"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _dataset(
    found: Any, name: str, split: str | None, columns: Sequence[str] | None
) -> Iterator[Row]:
    if isinstance(found, dict):  # a DatasetDict: named splits
        if split is None and len(found) == 1:
            (split,) = found
        if split not in found:
            raise DataError(
                f"{name}: split={split}: the data set has {', '.join(found)}; name one of them"
            )
        found = found[split]
    if columns is not None:
        # Long columns that nobody reads (solutions of DeepMath) would take most of the time.
        found = found.select_columns([c for c in found.column_names if c in columns])
    for number, row in enumerate(found, start=1):
        yield f"{name}, row {number}", dict(row)


def text_of(
    where: str, row: dict[str, Any], names: tuple[str, ...], may_be_empty: bool = False
) -> str:
    """The text of the first of some columns that a row has.

    Raises:
        DataError: it has none, or it holds no text.
    """
    name = next((name for name in names if name in row), None)
    if name is None:
        raise DataError(
            f"{where}: no column {names[0]!r} (found: {', '.join(map(str, row))}); every row "
            "needs it"
        )
    value = row[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise DataError(f"{where}: column {name!r} is {value!r}; a non-empty text is needed")
    return value
