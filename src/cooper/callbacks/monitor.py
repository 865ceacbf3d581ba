"""Is the reward being hacked? Measured beside the training, never in its way."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.callbacks.rollout_log import rollout_rows
from cooper.collectives import from_first, rank
from cooper.metrics import Metrics
from cooper.module import CooperModule, StepRecord
from cooper.monitoring import TRICKS, Alarm, MonitorSettings, Watch, trick_shares
from cooper.monitoring.probe import Probe
from cooper.run_folder import RunFolder
from cooper.tracing import note
from cooper.types import Status

LOG = logging.getLogger("cooper.monitoring")

_WORST = 10
_TRICK = "tricks/"


class Monitor(StepCallback):
    """Adds trends, tricks and the reward model's figures on fixed sets; raises alarms.

    It comes before whatever writes a step's figures. It draws from generators of its own, so a
    run's curve is the same without it, unless its action changes the run.

    Args:
        folder: of the run.
        settings: what is measured how often, and when an alarm is raised.
        seed: of the run.
    """

    def __init__(self, folder: RunFolder, settings: MonitorSettings, seed: int) -> None:
        self.folder, self.settings = folder, settings
        self.watch = Watch(settings)
        self.probe = Probe(settings.examples, settings.old_pairs, seed)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let checkpoints keep what the reward model is measured on."""
        if isinstance(pl_module, CooperModule):
            self.probe.choose(pl_module.reward_data.heldout)
            pl_module.attached["monitor"] = self.probe

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the start, and take up what a resumed run has seen."""
        if not isinstance(pl_module, CooperModule):
            return
        for row in from_first(self.folder.read_metrics() if rank() == 0 else []):
            if row["step"] > 0:
                self.watch.feed(row)
        self._ask_for_updates(pl_module)
        if pl_module.scorer is not None:
            # Lightning opens the precision's context around training_step alone.
            with trainer.precision_plugin.forward_context():
                self.probe.begin(pl_module.scorer)

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Measure, and raise the step's alarms."""
        began = time.perf_counter()
        rollouts = record.rollouts
        record.metrics.update(trick_shares(rollouts.completions, rollouts.references))
        if module.scorer is not None:
            due = record.step == 1 or record.step % self.settings.every == 0
            with trainer.precision_plugin.forward_context():
                measured = self.probe.measure(module.scorer) if due else {}
            # What an accuracy floor measured on all held-out labels stays.
            record.metrics = {**measured, **record.metrics}
            self.probe.remember(record.step, record.pairs, rollouts.problems)
        row: Metrics = {"step": record.step, **record.metrics}
        trends, alarms = self.watch.feed(row)
        record.metrics.update(trends)
        for alarm in alarms:
            self._raise(trainer, record, alarm)
        self._ask_for_updates(module)
        ended = time.perf_counter()
        record.metrics["time/monitor"] = ended - began
        note("monitor", began, ended)

    def _raise(self, trainer: L.Trainer, record: StepRecord, alarm: Alarm) -> None:
        record.alarms.append(alarm)
        path = self.folder.append_alarm(alarm, worst(rollout_rows(record, -1), alarm.key))
        LOG.warning("%s (%s)", alarm.message, path)
        if alarm.action == "stop":
            trainer.should_stop = True

    def _ask_for_updates(self, module: CooperModule) -> None:
        more = self.settings.action == "update_more" and self.watch.score_alarm_holds
        module.extra_inner_steps = self.settings.extra_inner_steps if more else 0


def worst(
    rows: Sequence[dict[str, Any]], key: str = "", keep: int = _WORST
) -> list[dict[str, Any]]:
    """The rollouts that a reader of an alarm wants to see, the worst first.

    Those verified as wrong come before the undecided ones, and in each kind the highest scored
    first (without a reward model, the highest rewarded). Right ones are left out. If a trick
    raised the alarm, it is the rollouts that show it, right ones too.

    Args:
        rows: as :func:`cooper.callbacks.rollout_log.rollout_rows` gives them.
        key: metric that raised the alarm.
        keep: how many.
    """
    kinds = {Status.INCORRECT.value: 0, Status.UNDECIDED.value: 1, Status.CORRECT.value: 2}
    trick = TRICKS.get(key.removeprefix(_TRICK)) if key.startswith(_TRICK) else None
    if trick is not None:
        rows = [row for row in rows if trick(row["completion"], row["reference"])]
    else:
        rows = [row for row in rows if row["verdict"] != Status.CORRECT.value]

    def rank(row: dict[str, Any]) -> tuple[int, float]:
        score = row["reward"] if row["score"] is None else row["score"]
        return kinds[row["verdict"]], -score

    return sorted(rows, key=rank)[:keep]
