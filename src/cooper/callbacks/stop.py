"""Ctrl-C or SIGTERM: finish the step, save, stop."""

from __future__ import annotations

import signal
import sys
from typing import Any

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.errors import Terminated


class GracefulStop(StepCallback):
    """Turns the first Ctrl-C into a stop after the running step; the second one stops at once.

    SIGTERM, which schedulers send before they kill, counts the same.

    Weights in mid-step are nobody's: a checkpoint is taken only between two steps. Before the
    first step there is nothing to save, and either signal stops at once.

    Attributes:
        asked: the signal that asked first, or None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._began = False
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over."""

        def handle(signum: int, frame: Any) -> None:
            if self.asked or not self._began:
                raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt
            self.asked = signal.Signals(signum)
            trainer.should_stop = True
            name, again = (
                ("Ctrl-C", "press again")
                if signum == signal.SIGINT
                else ("SIGTERM", "send it again")
            )
            print(
                f"\n{name}: finishing this step, then a checkpoint; {again} to stop at once",
                file=sys.stderr,
                flush=True,
            )

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, handle)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """From here on there is a step to finish."""
        self._began = True

    def restore(self) -> None:
        """Give the signals back; also after an error, which skips Lightning's teardown."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
