"""What every display of a run can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from cooper.display.state import RunState, StepView
from cooper.progress import Bar, Host, SilentBar


class Display(Host, Protocol):
    """Shows a run from :meth:`open` to :meth:`close`, and the bars of what happens inside it."""

    def open(self) -> None:
        """Take the screen; nothing is known of the run yet but its name."""
        ...

    def begin(self, state: RunState) -> None:
        """Take up what the run has seen so far, before its first step here."""
        ...

    def step(self, view: StepView) -> None:
        """Take in a step."""
        ...

    def close(self) -> None:
        """Give the screen back; what was seen last stays on it. Closing twice is once."""
        ...


class Silent:
    """Shows nothing."""

    def open(self) -> None:
        """Nothing."""

    def begin(self, state: RunState) -> None:
        """Nothing."""

    def step(self, view: StepView) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    @contextmanager
    def bar(self, title: str, total: int, unit: str, done: int) -> Iterator[Bar]:
        """A bar that shows nothing."""
        yield SilentBar()
