"""A folder in which long work goes on where it was ended."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cooper.errors import DataError
from cooper.files import claim, remove_leftovers, write_atomically
from cooper.journal import Journal


class ResumableFolder:
    """One process at a time, one set of settings, journals of what is done.

    Args:
        path: of the folder.
        holds: what is in the journals, for messages.
    """

    def __init__(self, path: str | Path, holds: str) -> None:
        self.path = Path(path).expanduser()
        self.holds = holds

    @property
    def settings(self) -> Path:
        """What decides the contents of the journals."""
        return self.path / "settings.json"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and keep other processes out.

        Raises:
            DataError: another process is at work there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            held = claim(self.path)
        except BlockingIOError as error:
            raise DataError(
                f"{self.path}: another process is writing {self.holds} into this folder; wait for "
                "its end, or give another folder"
            ) from error
        try:
            remove_leftovers(self.path)
            yield
        finally:
            if held is not None:
                os.close(held)

    def settle(self, settings: Mapping[str, str]) -> None:
        """Write down what decides the contents, or see that it is what it was.

        Args:
            settings: flat, as texts.

        Raises:
            DataError: the folder holds what came of other settings.
        """
        if not self.settings.is_file():
            text = json.dumps(dict(settings), indent=1)
            write_atomically(self.settings, text.encode())
            return
        try:
            before = json.loads(self.settings.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.settings}: broken; give another folder") from error
        changed = [
            f"{key}: {before.get(key, 'not set')} -> {settings.get(key, 'not set')}"
            for key in sorted({*before, *settings})
            if before.get(key) != settings.get(key)
        ]
        if changed:
            raise DataError(
                f"{self.path}: holds {self.holds} of other settings ({'; '.join(changed)}); give "
                "another folder, or go on with the old settings"
            )

    @contextlib.contextmanager
    def journal(self, name: str) -> Iterator[Journal]:
        """Open a journal by its file's name.

        Raises:
            DataError: it is broken before its last line.
        """
        journal = Journal(self.path / name)
        try:
            yield journal
        finally:
            journal.close()
