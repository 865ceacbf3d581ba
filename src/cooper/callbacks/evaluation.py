"""Evaluate before, during and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.checks import at_least
from cooper.evaluation import Evaluator
from cooper.metrics import Metrics
from cooper.module import CooperModule, StepRecord
from cooper.run_folder import RunFolder
from cooper.types import Problem


class Evaluation(StepCallback):
    """Adds ``val/...`` figures to the steps' metrics.

    Args:
        evaluator: how.
        val: sets evaluated at the start, every `every` steps and at the end.
        test: sets evaluated at the start and at the end only.
        every: RL steps between evaluations.
        folder: where the start's figures are written, as step 0.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        val: Mapping[str, Sequence[Problem]],
        test: Mapping[str, Sequence[Problem]],
        every: int,
        folder: RunFolder,
    ) -> None:
        self.evaluator, self.val, self.test, self.folder = evaluator, val, test, folder
        self.every = every
        at_least("evaluation", self, every=1)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the start; a resumed run has done so already."""
        if isinstance(pl_module, CooperModule) and pl_module.rl_step == 0:
            everything = {**self.val, **self.test}
            metrics = self._evaluate(trainer, pl_module, everything, "evaluation, start")
            self.folder.append_metrics(0, metrics)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=0)

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Evaluate when it is due."""
        last = record.step == module.max_steps
        if last:
            everything = {**self.val, **self.test}
            record.metrics.update(self._evaluate(trainer, module, everything, "evaluation, end"))
        elif record.step % self.every == 0:
            record.metrics.update(
                self._evaluate(trainer, module, self.val, f"evaluation, step {record.step}")
            )

    def _evaluate(
        self,
        trainer: L.Trainer,
        module: CooperModule,
        sets: Mapping[str, Sequence[Problem]],
        title: str,
    ) -> Metrics:
        version = module.updaters["policy"].steps
        # Lightning opens the precision's context around training_step alone.
        with trainer.precision_plugin.forward_context():
            return self.evaluator(module.policy, module.prompts, sets, version=version, title=title)
