"""What ran while what: spans in Chrome's trace event format, read by Perfetto and chrome://tracing.

torch's profiler records every operator of a step and Lightning's profilers only sums; neither shows
our phases beside the verifiers' threads over a whole run. Spans are by the wall clock; on a GPU a
span ends when its work has been queued, unless something in it waits for the device.

While :func:`recording` is not open, a span costs a look at a global name.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from cooper.files import naming

T = TypeVar("T")


class Recorder:
    """Writes the spans of all threads of this process to a file.

    The file is one JSON array, an event a line. Of a killed run its closing bracket is missing,
    which the format allows. Nothing but :meth:`flush` and :meth:`close` touches the disk, so that
    a worker's thread never meets a full one.

    Args:
        path: of the file, which must not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._origin = time.perf_counter()
        self._events: list[dict[str, Any]] = []
        self._named: set[tuple[int, str]] = set()
        self._lock = threading.Lock()
        began = datetime.now().astimezone().isoformat(timespec="seconds")
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", encoding="ascii")
            self._file.write("[\n" + json.dumps(self._meta("process_name", name=f"cooper {began}")))

    def add(self, name: str, began: float, ended: float, **args: Any) -> None:
        """Note a span of the calling thread.

        Args:
            name: of what ran.
            began: by ``time.perf_counter()``, in seconds.
            ended: likewise.
            args: shown beside it.
        """
        thread = threading.get_native_id(), threading.current_thread().name
        # Whole nanoseconds, so that rounding takes no span out of the one around it.
        first, last = (round((at - self._origin) * 1e9) for at in (began, ended))
        event = {
            "name": name, "ph": "X", "ts": first / 1e3, "dur": (last - first) / 1e3,
            "pid": os.getpid(), "tid": thread[0],
        }  # fmt: skip
        if args:
            event["args"] = args
        with self._lock:
            if thread not in self._named:
                self._named.add(thread)
                self._events.append(self._meta("thread_name", name=thread[1]))
            self._events.append(event)

    def flush(self) -> None:
        """Write what has been noted since the last time.

        Raises:
            OSError: it cannot be written; the error names the file.
        """
        with self._lock:
            events, self._events = self._events, []
        with naming(self.path):
            self._file.write("".join(",\n" + json.dumps(event) for event in events))
            self._file.flush()

    def close(self) -> None:
        """Write the rest and end the array."""
        try:
            self.flush()
            self._file.write("\n]\n")
        finally:
            with naming(self.path):
                self._file.close()

    @staticmethod
    def _meta(kind: str, **args: Any) -> dict[str, Any]:
        tid = threading.get_native_id()
        return {"name": kind, "ph": "M", "pid": os.getpid(), "tid": tid, "args": args}


_recorder: Recorder | None = None


@contextlib.contextmanager
def recording(path: Path) -> Iterator[None]:
    """Record the spans of this process until the block ends.

    Args:
        path: of the file; where there is one already, "-2", "-3", ... is put to its name.

    Raises:
        RuntimeError: another recording is open.
        OSError: the file cannot be written.
    """
    global _recorder
    if _recorder is not None:
        raise RuntimeError(f"{_recorder.path}: is being recorded; one trace at a time")
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    recorder = _recorder = Recorder(free)
    try:
        yield
    except BaseException:
        _recorder = None
        with contextlib.suppress(OSError):  # what ended the block is what has to be told
            recorder.close()
        raise
    _recorder = None
    recorder.close()


def note(name: str, began: float, ended: float, **args: Any) -> None:
    """Note a span that somebody else has timed; see :meth:`Recorder.add`."""
    if (recorder := _recorder) is not None:
        recorder.add(name, began, ended, **args)


@contextlib.contextmanager
def span(name: str, **args: Any) -> Iterator[None]:
    """Note how long a block takes, and in which thread.

    Args:
        name: of what runs.
        args: shown beside it.
    """
    if _recorder is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        note(name, began, time.perf_counter(), **args)


def each(name: str, items: Iterable[T]) -> Iterator[T]:
    """Give the items, and note how long each took to come."""
    waiting = iter(items)
    while True:
        began = time.perf_counter()
        try:
            item = next(waiting)
        except StopIteration:
            return
        note(name, began, time.perf_counter())
        yield item


def flush() -> None:
    """Write to the disk what was noted; to be called between steps, by the main thread."""
    if (recorder := _recorder) is not None:
        recorder.flush()
