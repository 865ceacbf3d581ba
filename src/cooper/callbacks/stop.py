"""Ctrl-C: finish the step, save, stop."""

from __future__ import annotations

import signal
import sys
from typing import Any

import lightning as L

from cooper.callbacks.base import StepCallback


class GracefulStop(StepCallback):
    """Turns the first Ctrl-C into a stop after the running step; the second one stops at once.

    Weights in mid-step are nobody's: a checkpoint is taken only between two steps. Before the
    first step there is nothing to save, and Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._began = False
        self._before: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signal over."""

        def handle(signum: int, frame: Any) -> None:
            if self.asked or not self._began:
                raise KeyboardInterrupt
            self.asked = True
            trainer.should_stop = True
            print(
                "\nCtrl-C: finishing this step, then a checkpoint; press again to stop at once",
                file=sys.stderr,
                flush=True,
            )

        self._before = signal.signal(signal.SIGINT, handle)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """From here on there is a step to finish."""
        self._began = True

    def restore(self) -> None:
        """Give the signal back; also after an error, which skips Lightning's teardown."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
