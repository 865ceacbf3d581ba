"""The display of a run in a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TextIO

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.text import Text

from cooper.display.plain import alarm_text
from cooper.display.screen import Inside, Kept, Screen
from cooper.display.state import RunState, StepView
from cooper.display.texts import encodable
from cooper.progress import Bar


class LiveDisplay:
    """Redraws one block at the bottom of the terminal; what others print appears above it.

    Rich draws in a thread. It reads a state that never changes, which a step replaces.

    Args:
        state: of the run, before its start.
        console: of the terminal.
        refreshes: a second.
        clock: gives seconds.
    """

    def __init__(
        self,
        state: RunState,
        console: Console,
        refreshes: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state, self.console, self.clock = state, console, clock
        self.inside: tuple[Inside, ...] = ()
        self.began = clock()
        self._size = console.size
        self._kept: Kept = {}
        self._closing = ExitStack()
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=refreshes,
            vertical_overflow="crop",
        )

    def open(self) -> None:
        """Start to draw."""
        self.began = self.clock()
        before = (sys.stdout, sys.stderr)
        self._live.start()
        self._closing.callback(self._live.stop)
        self._closing.callback(self._drop_bars)
        self._closing.enter_context(redirected_logs(before, (sys.stdout, sys.stderr)))

    def begin(self, state: RunState) -> None:
        """Show what the run has seen so far."""
        self.state = state.begun(state.done or 0, self.clock())

    def step(self, view: StepView) -> None:
        """Show a step. Alarms also go above the display, where they stay."""
        self.state = self.state.after(view, self.clock())
        for alarm in view.alarms:
            text = encodable(alarm_text(alarm), self.console.encoding)
            self.console.print(Text(text, style="bold red"))

    def close(self) -> None:
        """Draw for the last time, and show the cursor again."""
        self._closing.close()

    @contextmanager
    def bar(self, title: str, total: int, unit: str, done: int) -> Iterator[Bar]:
        """Show a bar below the run's own."""
        bar = _InsideBar(self, Inside(title, total, unit, done, done, self.clock()))
        self._live.refresh()  # drawn at once: what is short would begin and end between two frames
        try:
            yield bar
        finally:
            bar.remove()

    def _drop_bars(self) -> None:
        self.inside = ()

    def _draw(self) -> Screen:
        size, before = self.console.size, self._size
        self._size = size
        if size.width < before.width or size.height < before.height:
            # What was drawn now stands somewhere else, broken into more lines than Rich knows of.
            self.console.control(Control.clear(), Control.home())
        return Screen(self.state, self.inside, self.began, self.clock(), self._kept)


class _InsideBar:
    def __init__(self, display: LiveDisplay, shown: Inside) -> None:
        self.display, self.shown = display, shown
        display.inside = (*display.inside, shown)

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._replace(replace(self.shown, done=self.shown.done + amount, note=note))

    def remove(self) -> None:
        self._replace(None)

    def _replace(self, shown: Inside | None) -> None:
        bars = [shown if bar is self.shown else bar for bar in self.display.inside]
        self.display.inside = tuple(bar for bar in bars if bar is not None)
        if shown is not None:
            self.shown = shown


@contextmanager
def redirected_logs(before: tuple[TextIO, ...], after: tuple[TextIO, ...]) -> Iterator[None]:
    """Lead log handlers that hold an old stream to the new one.

    Rich takes over ``sys.stdout`` and ``sys.stderr``, but a handler keeps the stream that it was
    made with, and would write into the middle of the display.

    Args:
        before: streams that handlers may hold.
        after: the one to write to instead, for each.
    """
    loggers: list[Any] = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    moved = []
    for handler in {h for found in loggers for h in getattr(found, "handlers", ())}:
        stream = getattr(handler, "stream", None)
        for old, new in zip(before, after, strict=True):
            if stream is old and old is not new and isinstance(handler, logging.StreamHandler):
                handler.setStream(new)
                moved.append((handler, old))
    try:
        yield
    finally:
        for handler, old in moved:
            handler.setStream(old)
