"""Lines for logs and pipes: few, and each one whole."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cooper.display.state import ACCURACY, GAP, REWARD, RunState, StepView
from cooper.display.texts import clean, encodable
from cooper.monitoring import Alarm
from cooper.progress import Bar, rate_text
from cooper.run_folder import RunFolder


class PlainDisplay:
    """Says the start, the end, each alarm and each evaluation, and how it goes now and then.

    Args:
        state: of the run, before its start.
        every: seconds between two lines about how it goes.
        clock: gives seconds.
        write: prints a line; by default to the standard output.
    """

    def __init__(
        self,
        state: RunState,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self.state, self.every, self.clock = state, every, clock
        self.write = write or _print
        self._said_at = clock()
        self._unsaid = False

    def open(self) -> None:
        """Wait for the first line's time."""
        self._said_at = self.clock()

    def begin(self, state: RunState) -> None:
        """Say where the run starts or goes on."""
        self.state = state.begun(state.done or 0, self.clock())
        done, total = self.state.done, state.total
        self._say(f"from step {done} of {total}" if done else f"0/{total} steps")
        if not done:
            self._say_evaluation(0)

    def step(self, view: StepView) -> None:
        """Say the step's alarms and evaluation, and how it goes if it is time to."""
        now = self.clock()
        self.state = self.state.after(view, now)
        for alarm in view.alarms:
            self._say(alarm_text(alarm))
        if any(key.startswith("val/") for key in view.metrics):
            self._say_evaluation(view.step)
        self._unsaid = True
        if view.step >= self.state.total or now - self._said_at >= self.every:
            self._say_step()

    def close(self) -> None:
        """Say the last step, unless it has been said."""
        if self._unsaid:
            self._say_step()

    @contextmanager
    def bar(self, title: str, total: int, unit: str, done: int) -> Iterator[Bar]:
        """A bar inside the run: a line now and then, if it takes long."""
        yield _Inside(self, title, total, unit, done)

    def due(self) -> bool:
        """Whether it is time for a line, which then counts as said."""
        now = self.clock()
        if now - self._said_at < self.every:
            return False
        self._said_at = now
        return True

    def _say(self, text: str) -> None:
        self.write(f"{self.state.title}: {text}")

    def _say_step(self) -> None:
        self._said_at, self._unsaid = self.clock(), False
        self._say(step_text(self.state, self._said_at))

    def _say_evaluation(self, step: int) -> None:
        found = [
            f"{name} {e.value:.3f}"
            + (f" (start {e.start:.3f})" if step and e.start is not None else "")
            for name, e in self.state.averages().items()
            if e.step == step
        ]
        if found:
            self._say(f"evaluation at step {step}: {', '.join(found)}")


class _Inside:
    def __init__(self, display: PlainDisplay, title: str, total: int, unit: str, done: int) -> None:
        self.display, self.title, self.total, self.unit = display, title, total, unit
        self.done = done

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        if self.display.due():
            more = f", {note}" if note else ""
            self.display.write(f"{self.title}: {self.done}/{self.total} {self.unit}s{more}")


def step_text(state: RunState, now: float) -> str:
    """How a run goes, in one line.

    Args:
        state: of the run.
        now: time on the display's clock.
    """
    pace, left = state.seconds_a_step, state.seconds_left(now)
    parts = [f"{state.done}/{state.total} steps", rate_text(1 / pace if pace else None, "step")]
    if left is not None:
        parts.append(f"{left:.0f} s left")
    if state.tokens_per_second is not None:
        parts.append(f"{state.tokens_per_second:.0f} tokens/s")
    for name, key, form in (
        ("reward", REWARD, ".2f"),
        ("verified", ACCURACY, ".2f"),
        ("gap", GAP, "+.2f"),
    ):
        value = state.figure(key)
        if value is not None:
            parts.append(f"{name} {value:{form}}")
    return ", ".join(parts)


def alarm_text(alarm: Alarm) -> str:
    """An alarm in one line, with the file of its worst rollouts inside the run folder."""
    return f"ALARM at step {alarm.step}, {alarm.name}: {alarm_message(alarm)} ({worst_file(alarm)})"


def alarm_message(alarm: Alarm) -> str:
    """What an alarm says, without the step and the name, which stand beside it."""
    return clean(alarm.message.removeprefix(f"step {alarm.step}, {alarm.name}: "))


def worst_file(alarm: Alarm) -> str:
    """Where an alarm's worst rollouts stand inside the run folder."""
    return RunFolder("").worst_rollouts(alarm.step, alarm.name).as_posix()


def _print(line: str) -> None:
    print(encodable(line, sys.stdout.encoding or "utf-8"), flush=True)
