"""A sample of the rollouts, to be read by people and by later analyses."""

from __future__ import annotations

from typing import Any

import lightning as L

from cooper.callbacks.base import StepCallback
from cooper.errors import NonFiniteError
from cooper.module import CooperModule, StepRecord
from cooper.run_folder import RunFolder


class RolloutLog(StepCallback):
    """Writes ``rollouts/<step>.jsonl.gz``.

    Kept are the step's first problems with their whole groups, until `keep` completions are
    there. Problems come in random order, so that is a fair sample; groups stay whole, because an
    advantage means nothing without its group.

    Args:
        folder: of the run.
        keep: completions a step; -1: all, 0: none.
        every: steps between files.
    """

    def __init__(self, folder: RunFolder, keep: int = 64, every: int = 1) -> None:
        if keep < -1:
            raise ValueError(f"rollouts.keep={keep}: -1 (all), 0 (none) or a number of completions")
        if every < 1:
            raise ValueError(f"rollouts.every={every}: must be at least 1")
        self.folder, self.keep, self.every = folder, keep, every

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        """Write the sample when it is due."""
        if self.keep and record.step % self.every == 0:
            self.folder.write_rollouts(record.step, rollout_rows(record, self.keep))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save all rollouts of the step that ended the run by non-finite losses."""
        if isinstance(exception, NonFiniteError) and isinstance(pl_module, CooperModule):
            record = pl_module.last
            if record is not None:
                self.folder.write_rollouts(record.step, rollout_rows(record, -1))


def rollout_rows(record: StepRecord, keep: int) -> list[dict[str, Any]]:
    """The kept rollouts of a step as plain objects.

    Args:
        record: the step.
        keep: completions; -1: all.
    """
    rollouts, roles, negatives = record.rollouts, {}, {}
    for pair in record.pairs.pairs:
        roles[pair.chosen_rollout] = "chosen"
        if pair.rejected_rollout is not None:
            roles[pair.rejected_rollout] = "rejected"
        negatives[pair.chosen_rollout] = pair
    rows: list[dict[str, Any]] = []
    for problem, group in zip(rollouts.problems, rollouts.groups, strict=True):
        if keep >= 0 and len(rows) >= keep:
            break
        for index in group:
            verdict, pair = record.verdicts[index], negatives.get(index)
            rows.append(
                {
                    "step": record.step,
                    "problem": problem.id,
                    "source": problem.source,
                    "question": problem.question,
                    "reference": problem.reference,
                    "completion": rollouts.completions[index],
                    "finished": bool(rollouts.finished[index]),
                    "answer": verdict.answer,
                    "answer_span": verdict.span,
                    "verdict": verdict.status.value,
                    "reason": verdict.reason,
                    "score": None if record.scores is None else float(record.scores[index]),
                    "reward": float(record.rewards.values[index]),
                    "advantage": float(record.advantages[index]),
                    "role": roles.get(index, "none"),
                    "negative": None if pair is None else pair.rejected,
                    "negative_source": None if pair is None else pair.provenance,
                    "policy_version": rollouts.policy_version,
                }
            )
    return rows
