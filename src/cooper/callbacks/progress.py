"""The RL run's progress bar."""

from __future__ import annotations

from contextlib import ExitStack

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.module import CooperModule, StepRecord
from cooper.progress import Bar, progress


class StepProgress(StepCallback):
    """Steps, rate, time left, and the reward beside the verified accuracy.

    Args:
        title: of the bar.
    """

    def __init__(self, title: str = "RL") -> None:
        self.title = title
        self._stack = ExitStack()
        self._bar: Bar | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar."""
        if isinstance(pl_module, CooperModule):
            self._bar = self._stack.enter_context(
                progress(self.title, pl_module.max_steps, "step", done=pl_module.rl_step)
            )

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Advance it."""
        if self._bar is not None:
            m = record.metrics
            note = f"reward {m['reward/mean']:.2f}, verified {m['verifier/accuracy']:.2f}"
            evaluated = [v for k, v in m.items() if k.startswith("val/") and "/avg_at_" in k]
            self._bar.advance(1, note + (f", val {evaluated[0]:.2f}" if evaluated else ""))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._stack.close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self._stack.close()
