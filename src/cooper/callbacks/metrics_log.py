"""Every figure of every step, in ``metrics.jsonl`` and in the loggers, on the RL step axis."""

from __future__ import annotations

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.module import CooperModule, StepRecord
from cooper.run_folder import RunFolder


class MetricsLog(StepCallback):
    """Writes the step's metrics. Lightning's own step counts both optimizers, so it is not used.

    Args:
        folder: of the run; None: the loggers alone are told, in a Trainer without a run folder.
    """

    def __init__(self, folder: RunFolder | None = None) -> None:
        self.folder = folder

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Write one line."""
        if self.folder is not None:
            self.folder.append_metrics(record.step, record.metrics)
        for logger in trainer.loggers:
            logger.log_metrics(record.metrics, step=record.step)
