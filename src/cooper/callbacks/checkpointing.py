"""Checkpoints between RL steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.checkpoints import load_checkpoint, parts_state, save_checkpoint
from cooper.collectives import any_rank, from_first, rank, wait
from cooper.files import discard
from cooper.module import CooperModule, StepRecord
from cooper.run_folder import RunFolder
from cooper.tracing import span


class Restore(L.Callback):
    """Puts a checkpoint's state into the module before anything else of the run happens.

    Args:
        checkpoint: folder to start from; None: nothing.
        folder: of the run; cut back to the checkpoint's step once that has been loaded.
        config: the resolved configuration that the run goes on with, as YAML.
        machine: versions and hardware that it goes on with.
    """

    def __init__(
        self, checkpoint: Path | None, folder: RunFolder, config: str, machine: Mapping[str, Any]
    ) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.config, self.machine = config, machine

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load, then forget what is about to be run again: a broken checkpoint destroys nothing."""
        if isinstance(pl_module, CooperModule):
            parts_state(pl_module)  # what cannot be saved is refused now, not at the first save
            if self.checkpoint is not None:
                load_checkpoint(pl_module, self.checkpoint)
                self.folder.cut_after(pl_module.rl_step)
            self.folder.describe(self.config, self.machine, pl_module.rl_step)
            wait()  # before the others read what is left


class Checkpointing(StepCallback):
    """Saves every n steps, at the end, and when the run is asked to stop.

    It comes last, so that a step's figures and rollouts are on disk before its checkpoint is.

    Args:
        folder: of the run.
        every: steps between checkpoints; 0: only at the end.
        keep_last: how many stay; 0: all.
    """

    def __init__(self, folder: RunFolder, every: int = 10, keep_last: int = 1) -> None:
        if every < 0 or keep_last < 0:
            raise ValueError(
                f"checkpoints.every={every}, checkpoints.keep_last={keep_last}: 0 or more"
            )
        self.folder, self.every, self.keep_last = folder, every, keep_last

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Save when it is due, and let all processes stop where one is to."""
        trainer.should_stop = any_rank(trainer.should_stop)
        if self.every and record.step % self.every == 0:
            self._save(module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last step, whatever ended the run there."""
        if isinstance(pl_module, CooperModule) and pl_module.rl_step:
            self._save(pl_module)

    def _save(self, module: CooperModule) -> None:
        folder = self.folder.checkpoint(module.rl_step)
        if from_first(module.rl_step in self.folder.checkpoint_steps()):
            return
        with span("checkpoint"):
            self.folder.sync()
            save_checkpoint(module, folder)
        if rank():
            return
        steps = self.folder.checkpoint_steps()
        for old in steps[: -self.keep_last] if self.keep_last else []:
            discard(self.folder.checkpoint(old))
