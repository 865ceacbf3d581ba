"""A journal: what was said is on the disk before anything counts on it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cooper.errors import DataError
from cooper.files import naming, sync


class Journal:
    """Append-only JSON lines, synchronised with the disk batch by batch.

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
        self._lock = threading.Lock()
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        self.entries = [self._entry(*line) for line in enumerate(whole.splitlines(), start=1)]
        with naming(path):
            # In append mode by hand: a batch is one write, and no buffer survives an interruption.
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            self._file: int | None = file
            if len(whole) < len(data):
                os.truncate(file, len(whole))
            os.fsync(file)
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

    def append(self, entries: Iterable[Mapping[str, Any]], durable: bool = True) -> None:
        """Write lines, in any thread.

        Args:
            entries: JSON objects.
            durable: wait until they are on the disk. Without, they survive the end of the process
                but not of the machine, until :meth:`sync`.

        Raises:
            OSError: the disk is full, or the like; the error names the file.
            RuntimeError: the journal was closed.
        """
        # ASCII, so that halves of surrogate pairs, which JSON can bring, come back as they were.
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode("ascii")
        if not data:
            return
        with naming(self.path), self._lock:
            while data:
                data = data[os.write(self._open(), data) :]
        if durable:
            self.sync()

    def sync(self) -> None:
        """Wait until all lines are on the disk.

        Raises:
            OSError: they cannot be written.
        """
        with naming(self.path), self._lock:
            os.fsync(self._open())

    def close(self) -> None:
        """Give the file back. What comes later, from a thread that goes on, is refused."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _open(self) -> int:
        if self._file is None:
            raise RuntimeError(f"{self.path}: the journal was closed")
        return self._file
