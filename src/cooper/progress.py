"""Progress with a rate and an estimate of the time left, for every stage alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Bar(Protocol):
    """A running progress display."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that `amount` more units are done, with a short note on how it goes."""


class _Rate(ProgressColumn):
    """Units a second; below one, seconds a unit."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(rate_text(task.speed or task.finished_speed, self.unit), style="cyan")


def rate_text(speed: float | None, unit: str) -> str:
    """Write a rate: ``3.1 step/s``, or ``2.4 s/step`` for slow ones."""
    if not speed:
        return f"- {unit}/s"
    return f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}"


class _RichBar:
    def __init__(self, progress: Progress, task: int) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._progress.update(TaskID(self._task), advance=amount, note=note)


class _PlainBar:
    """Lines instead of a bar where the output is no terminal: at the start, then now and then."""

    def __init__(self, title: str, total: int, unit: str, done: int, every: float = 10.0) -> None:
        self.title, self.total, self.unit, self.every = title, total, unit, every
        self.done, self.first = done, done
        self.began = self.said = time.monotonic()
        print(f"{title}: 0/{total} {unit}s" if not done else f"{title}: from {unit} {done}")
        sys.stdout.flush()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if self.done < self.total and now - self.said < self.every:
            return
        self.said = now
        speed = (self.done - self.first) / max(now - self.began, 1e-9)
        left = (self.total - self.done) / speed if speed else 0.0
        ending = f", {note}" if note else ""
        print(
            f"{self.title}: {self.done}/{self.total} {self.unit}s, "
            f"{rate_text(speed, self.unit)}, {left:.0f} s left{ending}",
            flush=True,
        )


class SilentBar:
    """Shows nothing."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Nothing."""


class Host(Protocol):
    """A display that has the screen, and shows the bars of what happens meanwhile."""

    def bar(self, title: str, total: int, unit: str, done: int) -> AbstractContextManager[Bar]:
        """Show a bar; the arguments are those of :func:`progress`."""
        ...


_quiet = False
_host: Host | None = None


def set_quiet(quiet: bool) -> None:
    """Switch all progress off or on for this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether progress is switched off."""
    return _quiet


def draws(console: Console) -> bool:
    """Whether a console can redraw what it has written: a terminal, and not a dumb one.

    Variables such as ``FORCE_COLOR`` make Rich take a file for a terminal; colours do no harm
    there, but moving the cursor would.
    """
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


@contextmanager
def hosted(host: Host) -> Iterator[None]:
    """Let a display show all bars that open meanwhile: two would overwrite each other.

    Args:
        host: the display.
    """
    global _host
    before, _host = _host, host
    try:
        yield
    finally:
        _host = before


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """Show the progress of a stage.

    Args:
        title: of the stage.
        total: units in all.
        unit: name of one unit, in the singular.
        done: units done before (a resumed run).
        show: false gives a bar that shows nothing.

    Yields:
        a bar to advance.
    """
    if _quiet or not show:
        yield SilentBar()
        return
    if _host is not None:
        with _host.bar(title, total, unit, done) as bar:
            yield bar
        return
    console = Console()
    if not draws(console):
        yield _PlainBar(title, total, unit, done)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as display:
        task = display.add_task(title, total=total, completed=done, note="")
        yield _RichBar(display, int(task))
