"""Evaluate before, during and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.checks import at_least
from cooper.evaluation import Evaluator
from cooper.metrics import Metrics
from cooper.module import CooperModule, StepRecord
from cooper.run_folder import RunFolder
from cooper.tracing import span
from cooper.types import Problem


class Evaluation(StepCallback):
    """Adds ``val/...`` figures to the steps' metrics.

    Args:
        evaluator: how.
        val: sets evaluated at the start, every `every` steps and at the end.
        test: sets evaluated at the start and at the end only.
        every: RL steps between evaluations.
        folder: where the start's figures are written, as step 0.
        test_last: how many of the last evaluations count as the end: a mean over some of them
            says more about a run than its last step does.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        val: Mapping[str, Sequence[Problem]],
        test: Mapping[str, Sequence[Problem]],
        every: int,
        folder: RunFolder,
        test_last: int = 1,
    ) -> None:
        self.evaluator, self.val, self.test, self.folder = evaluator, val, test, folder
        self.every, self.test_last = every, test_last
        at_least("evaluation", self, every=1, test_last=1)

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
        if record.step != module.max_steps and record.step % self.every:
            return
        later = math.ceil(module.max_steps / self.every) - math.ceil(record.step / self.every)
        last = later < self.test_last
        title = "evaluation, end" if last else f"evaluation, step {record.step}"
        sets = {**self.val, **self.test} if last else self.val
        record.metrics.update(self._evaluate(trainer, module, sets, title))

    def _evaluate(
        self,
        trainer: L.Trainer,
        module: CooperModule,
        sets: Mapping[str, Sequence[Problem]],
        title: str,
    ) -> Metrics:
        version = module.updaters["policy"].steps
        # Lightning opens the precision's context around training_step alone.
        context = trainer.precision_plugin.forward_context()
        with context, span("validation"), module.whole(module.policy):
            return self.evaluator(module.policy, module.prompts, sets, version=version, title=title)
