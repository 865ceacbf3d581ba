"""What the supervised stages share: batches by step, a Lightning trainer, a progress bar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from cooper.errors import interruption
from cooper.optim import OptimizerSettings
from cooper.progress import Bar, progress


class StepBatches(IterableDataset):
    """Batches made by a function of the step, so that their order is the seed's alone."""

    def __init__(self, make: Callable[[int], Any], steps: int) -> None:
        self.make = make
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        """Batches of steps 0, 1, ..."""
        for step in range(self.steps):
            yield self.make(step)


class SupervisedModule(L.LightningModule, ABC):
    """One model, one optimizer; subclasses say what the loss of a batch is."""

    def __init__(self, model: torch.nn.Module, optimizer: OptimizerSettings, steps: int) -> None:
        super().__init__()
        self.model = model
        self.optimizer_settings = optimizer
        self.steps = steps
        self.last_loss = float("nan")

    @abstractmethod
    def loss(self, batch: Any) -> torch.Tensor:
        """Scalar loss of a batch."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Lightning's hook: backward and step are automatic."""
        loss = self.loss(batch)
        self.last_loss = float(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        """One optimizer with its schedule, stepped every batch."""
        optimizer, scheduler = self.optimizer_settings.build(self.model.parameters(), self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip, also under ``bf16-mixed``, where Lightning refuses it for a fused optimizer."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave ragged lists alone: the models pad and move them."""
        return batch


class _Advance(L.Callback):
    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        self.bar.advance(1, note=f"loss {pl_module.last_loss:.3f}")


def fit(
    module: SupervisedModule,
    make_batch: Callable[[int], Any],
    title: str,
    trainer: dict[str, Any],
) -> None:
    """Train a supervised stage.

    Args:
        module: model, loss and optimizer.
        make_batch: batch of a step, counted from 0.
        title: of the progress bar.
        trainer: accelerator, devices, precision for Lightning's Trainer.
    """
    with progress(title, module.steps, "step") as bar:
        options = {**trainer, "gradient_clip_val": module.optimizer_settings.clip_norm or None}
        fit_steps(module, StepBatches(make_batch, module.steps), [_Advance(bar)], options)


def fit_steps(
    module: L.LightningModule,
    batches: StepBatches,
    callbacks: list[L.Callback],
    trainer: dict[str, Any],
) -> None:
    """Train any module on batches by step, and leave it in evaluation mode.

    Args:
        module: to train.
        batches: one a step.
        callbacks: of Lightning's.
        trainer: keywords of Lightning's Trainer.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; half a stage must not go on as if it were whole.
    """
    module.train()
    fitter = L.Trainer(max_epochs=1, callbacks=callbacks, **{**QUIET, **trainer})
    try:
        fitter.fit(module, DataLoader(batches, batch_size=None))
    except SystemExit as exit_:
        raise interruption(exit_) from exit_  # what Lightning makes of it
    module.eval()


@contextmanager
def placed(model: torch.nn.Module, trainer: dict[str, Any]) -> Iterator[None]:
    """Keep a model on the run's device and under its precision, for work outside a Trainer.

    Args:
        model: moved, and moved back to the CPU afterwards, as Lightning's Trainer does.
        trainer: accelerator, devices, precision.
    """
    fabric = L.Fabric(**trainer)
    model.to(fabric.device)
    try:
        with fabric.autocast():
            yield
    finally:
        model.to("cpu")


# Lightning's own bars, checkpoints, summaries and samplers: ours stand in their place.
QUIET: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "logger": False,
    "log_every_n_steps": 1,
}
