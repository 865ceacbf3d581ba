"""What the RL run shows of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import lightning as L
from rich.console import Console

from cooper.callbacks.base import StepCallback
from cooper.callbacks.monitor import worst
from cooper.callbacks.rollout_log import rollout_rows
from cooper.display import Display, LiveDisplay, PlainDisplay, RunState, Sample, Silent, StepView
from cooper.module import CooperModule, StepRecord
from cooper.monitoring import Alarm
from cooper.progress import draws, hosted, is_quiet
from cooper.run_folder import RunFolder

_SAMPLE_SECONDS = 10.0


class StepProgress(StepCallback):
    """One display from the start's evaluation to the end: a live one, lines, or nothing.

    In a terminal it is redrawn in place; elsewhere it is a line now and then;
    :func:`cooper.progress.set_quiet` switches it off.

    Args:
        folder: of the run.
        title: of the run.
        clock: gives seconds.
    """

    def __init__(
        self, folder: RunFolder, title: str = "RL", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.title, self.clock = folder, title, clock
        self._display: Display = Silent()
        self._closing = ExitStack()
        self._sampled_at = -_SAMPLE_SECONDS
        self._samples = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the screen before anything else of the run happens."""
        if isinstance(pl_module, CooperModule):
            state = RunState(self.title, str(self.folder.path), pl_module.max_steps)
            # Processes beside the first one host their bars too, and show none.
            self._display = self._choose(state) if trainer.is_global_zero else Silent()
            self._closing.callback(self._display.close)
            self._display.open()
            self._closing.enter_context(hosted(self._display))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show what the folder holds: the start's evaluation, or a resumed run's steps."""
        if isinstance(pl_module, CooperModule):
            found = [{**row} for row in self.folder.read_alarms()]
            for row in found:
                del row["rollouts"]
            state = RunState(
                self.title, str(self.folder.path), pl_module.max_steps, pl_module.rl_step
            )
            self._display.begin(
                state.resumed(self.folder.read_metrics(), [Alarm(**row) for row in found])
            )

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Show a step."""
        self._display.step(
            StepView(
                record.step,
                record.metrics,
                int(record.rollouts.offsets[-1]),
                tuple(record.alarms),
                self._sample(record),
            )
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the screen back."""
        self.close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the screen back, so that the error stands on a line of its own."""
        self.close()

    def close(self) -> None:
        """Give the screen back; also for errors that Lightning tells nobody about."""
        self._closing.close()

    def _choose(self, state: RunState) -> Display:
        if is_quiet():
            return Silent()
        console = Console()
        if draws(console):
            return LiveDisplay(state, console, clock=self.clock)
        return PlainDisplay(state, clock=self.clock)

    def _sample(self, record: StepRecord) -> Sample | None:
        """The worst rollout of an alarm, else now and then the next one in turn."""
        if not isinstance(self._display, LiveDisplay) or not len(record.rollouts):
            return None
        if record.alarms:
            rows = worst(rollout_rows(record, -1), record.alarms[-1].key, keep=1)
            if rows:
                self._sampled_at = self.clock()
                row = rows[0]
                return Sample(
                    record.step, row["question"], row["reference"], row["completion"],
                    row["verdict"], row["score"], row["reward"],
                )  # fmt: skip
        if self.clock() - self._sampled_at < _SAMPLE_SECONDS:
            return None
        self._sampled_at = self.clock()
        rollouts = record.rollouts
        # Another problem each time, and another place in its group.
        problems = [group for group in rollouts.groups if group]
        group = problems[self._samples % len(problems)]
        index = group[self._samples % len(group)]
        self._samples += 1
        problem = rollouts.problems[rollouts.owners[index]]
        return Sample(
            record.step,
            problem.question,
            problem.reference,
            rollouts.completions[index],
            record.verdicts[index].status.value,
            None if record.scores is None else float(record.scores[index]),
            float(record.rewards.values[index]),
        )
