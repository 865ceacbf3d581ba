"""Rows of a table on disk or hub: JSON Lines, Parquet, or a Hugging Face data set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
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
    revision: str | None = None,
    bad: BadRows | None = None,
) -> Iterator[Row]:
    """Read the rows of a table, one after the other.

    Args:
        path: a JSON Lines file; a Parquet file, or a folder of them; a folder written by
            ``datasets.Dataset.save_to_disk``; or the hub id of a data set.
        split: which split of a Hugging Face data set; needed where it has several.
        revision: commit, tag or branch on the hub.
        bad: takes lines that hold no JSON object; by default the first one is an error.

    Yields:
        where a row stands, for messages, and its columns.

    Raises:
        DataError: there is no such file, it cannot be read, or a line is broken.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        yield from _folder(file, split)
    elif file.suffix == ".parquet" and file.is_file():
        yield from _parquet([file])
    elif file.is_file():
        yield from _json_lines(file, str(path), bad or BadRows())
    elif file.suffix or str(path).startswith((".", "~", "/")) or str(path).count("/") > 1:
        raise DataError(
            f"{path}: no such file; give a JSON Lines or Parquet file, a folder written by "
            "save_to_disk, or the hub id of a data set"
        )
    else:
        yield from _hub(str(path), split, revision)


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


def _parquet(files: list[Path]) -> Iterator[Row]:
    # Imported here: JSON Lines need neither Arrow nor its start-up time.
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    for file in files:
        number = 0
        try:
            for batch in ParquetFile(file).iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
        except (ArrowException, OSError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{file}: cannot be read as Parquet ({first})") from error


def _folder(folder: Path, split: str | None) -> Iterator[Row]:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        try:
            found = load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{folder}: cannot be loaded as a data set ({first})") from error
        yield from _dataset(found, str(folder), split)
        return
    name = f"{split}*.parquet" if split else "*.parquet"
    files = sorted(folder.glob(name)) or sorted((folder / "data").glob(name))
    if not files:
        raise DataError(
            f"{folder}: holds no data set of save_to_disk and no {name}; give a folder with "
            "either, or a file"
        )
    yield from _parquet(files)


def _hub(path: str, split: str | None, revision: str | None) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        found = load_dataset(path, split=split, revision=revision)
    except Exception as error:
        # Network, hub and reader errors have no common class of their own.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: no such file here, and as a data set of the hub it cannot be loaded ({first})"
        ) from error
    yield from _dataset(found, path, split)


def _dataset(found: Any, name: str, split: str | None) -> Iterator[Row]:
    if isinstance(found, dict):  # a DatasetDict: named splits
        if split is None and len(found) == 1:
            (split,) = found
        if split not in found:
            raise DataError(
                f"{name}: split={split}: the data set has {', '.join(found)}; name one of them"
            )
        found = found[split]
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
