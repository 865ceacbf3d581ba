"""Ctrl-C or SIGTERM: finish the step, save, stop."""

from __future__ import annotations

import signal
import sys
from typing import Any

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.collectives import most_of_ranks, rank, ranks
from cooper.errors import Terminated
from cooper.module import CooperModule, StepRecord


class GracefulStop(StepCallback):
    """Turns the first Ctrl-C into a stop after the running step; the second one stops at once.

    SIGTERM, which schedulers send before they kill, counts as the first one, never as the second.

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
            again = self.asked is not None
            if again and signum == signal.SIGTERM:
                return  # sent to the whole process group, and passed on by a sweep besides
            self.asked = self.asked or signal.Signals(signum)
            if again or not self._began:
                raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt
            trainer.should_stop = ranks() == 1  # of several, all stop after the same step
            name, at_once = (
                ("Ctrl-C", "press again")
                if signum == signal.SIGINT
                else ("SIGTERM", "send SIGINT (Ctrl-C)")
            )
            if rank():
                return
            print(
                f"\n{name}: finishing this step, then a checkpoint; {at_once} to stop at once",
                file=sys.stderr,
                flush=True,
            )

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, handle)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """From here on there is a step to finish."""
        self._began = True

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Stop together: whichever process was asked."""
        if ranks() > 1 and (number := most_of_ranks(self.asked or 0)):
            self.asked = signal.Signals(number)
            trainer.should_stop = True

    def restore(self) -> None:
        """Give the signals back; also after an error, which skips Lightning's teardown."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
