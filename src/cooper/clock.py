"""Seconds spent in the parts of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cooper import tracing

PHASES = ("sample", "verify", "score", "policy", "pairs", "reward_model")


class Clock:
    """Wall-clock seconds by phase; calling it times a block. A trace gets the same intervals."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._step = 0
        self._began = time.perf_counter()

    def start(self, step: int = 0) -> Clock:
        """Begin a step."""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._step = step
        self._began = time.perf_counter()
        return self

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a block under the name of a phase."""
        began = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            self._seconds[phase] += ended - began
            tracing.note(phase, began, ended)

    def stop(self) -> dict[str, float]:
        """End the step: ``time/<phase>`` and ``time/step`` in seconds."""
        ended = time.perf_counter()
        tracing.note("step", self._began, ended, step=self._step)
        tracing.flush()
        total = ended - self._began
        return {**{f"time/{k}": v for k, v in self._seconds.items()}, "time/step": total}
