"""Callbacks that look at RL steps rather than at Lightning's optimizer steps."""

from __future__ import annotations

from typing import Any

import lightning as L

from cooper.module import CooperModule, StepRecord


class StepCallback(L.Callback):
    """Calls :meth:`on_step` after each RL step, once both models are updated."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Lightning's hook."""
        if isinstance(pl_module, CooperModule) and pl_module.last is not None:
            self.on_step(trainer, pl_module, pl_module.last)

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Look at a step that has just ended."""
