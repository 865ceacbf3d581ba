"""Checkpoints between RL steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.checkpoints import load_checkpoint, save_checkpoint
from cooper.module import CooperModule, StepRecord
from cooper.run_folder import RunFolder


class Checkpointing(StepCallback):
    """Saves every n steps, at the end, and when the run is asked to stop; restores at the start.

    Args:
        folder: of the run.
        every: steps between checkpoints; 0: only at the end.
        keep_last: how many stay; 0: all.
        resume: checkpoint folder to start from.
    """

    def __init__(
        self, folder: RunFolder, every: int = 10, keep_last: int = 1, resume: Path | None = None
    ) -> None:
        if every < 0 or keep_last < 0:
            raise ValueError(
                f"checkpoints.every={every}, checkpoints.keep_last={keep_last}: 0 or more"
            )
        self.folder, self.every, self.keep_last, self.resume = folder, every, keep_last, resume

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore, before anything else of the run happens."""
        if self.resume is not None and isinstance(pl_module, CooperModule):
            load_checkpoint(pl_module, self.resume)

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Save when it is due."""
        due = self.every and record.step % self.every == 0
        if due or record.step == module.max_steps or trainer.should_stop:
            save_checkpoint(module, self.folder.checkpoint(record.step))
            steps = self.folder.checkpoint_steps()
            for old in steps[: -self.keep_last] if self.keep_last else []:
                shutil.rmtree(self.folder.checkpoint(old))
