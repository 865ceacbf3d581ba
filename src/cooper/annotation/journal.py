"""A journal: what was said is on the disk before anything counts on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cooper.errors import DataError
from cooper.files import naming, sync


class Journal:
    """Append-only JSON lines, each batch of them synchronised with the disk.

    One process writes (see :func:`cooper.files.claim`). A line that a kill cut off is dropped when
    the journal is opened again.

    Args:
        path: of the file; made if it is not there.

    Attributes:
        entries: the lines of earlier processes.

    Raises:
        DataError: a line before the last one is broken.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        self.entries = [self._entry(*line) for line in enumerate(whole.splitlines(), start=1)]
        with naming(path):
            # In append mode by hand: a batch is one write, and no buffer survives an interruption.
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            if len(whole) < len(data):
                os.truncate(self._file, len(whole))
            os.fsync(self._file)
        sync(path.parent)

    def _entry(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise DataError(
                f"{self.path}, line {number}: broken; delete that line, and what it held is asked "
                "again"
            )
        return entry

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write lines and wait until they are on the disk.

        Raises:
            OSError: the disk is full, or the like; the error names the file.
        """
        # ASCII, so that halves of surrogate pairs, which JSON can bring, come back as they were.
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode("ascii")
        if not data:
            return
        with naming(self.path):
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)
