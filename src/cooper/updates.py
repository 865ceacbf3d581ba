"""The one place that knows accumulation, skipping and stepping; an engine does each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from cooper.collectives import gathered, summed
from cooper.errors import NonFiniteError
from cooper.strategies.engine import Engine
from cooper.tracing import each, span


@dataclass(frozen=True)
class UpdateResult:
    """What one optimizer step did."""

    loss: float
    grad_norm: float  # before clipping
    lr: float  # the rate that was applied
    applied: bool  # false: the loss or a gradient was not finite, the weights stayed


class ModelUpdater:
    """Takes one model's optimizer steps.

    A step whose loss or gradient is NaN or infinite is skipped and counted: the weights, the
    optimizer's state and the schedule stay as they were. After `max_skips` in a row training
    stops, since it has gone wrong for good.

    Args:
        name: "policy" or "reward_model", for messages.
        clip_norm: largest gradient norm; 0: no clipping.
        max_skips: skipped steps in a row that stop the run.
        mend: what the user may do then.
    """

    def __init__(
        self,
        name: str,
        clip_norm: float,
        max_skips: int,
        mend: str | None = None,
    ) -> None:
        self.name = name
        self.mend = mend or f"lower {name}_optimizer.lr or look at the saved rollouts"
        self.clip_norm = clip_norm
        self.max_skips = max_skips
        self.steps = 0
        self.skipped = 0
        self.skipped_in_a_row = 0

    def step(
        self,
        losses: Iterable[Tensor],
        engine: Engine,
        scheduler: LRScheduler,
    ) -> UpdateResult:
        """Accumulate the micro-batches' losses, clip, step.

        Args:
            losses: this process's shares of one loss, computed one at a time so that only one
                graph lives.
            engine: of this model.
            scheduler: advanced when the step was applied.

        Raises:
            NonFiniteError: too many steps in a row were skipped.
        """
        engine.zero_grad()
        total = 0.0
        for loss in each(f"{self.name} forward", losses):
            with span(f"{self.name} backward"):
                engine.backward(loss)
            total += float(loss.detach())
        total = float(summed(torch.tensor(total, dtype=torch.float64)))
        lr = float(scheduler.get_last_lr()[0])
        with span(f"{self.name} optimizer"):
            norm, applied = engine.step(self.clip_norm, math.isfinite(total))
        if applied:
            scheduler.step()
            self.steps += 1
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.max_skips:
            raise NonFiniteError(
                f"{self.name}: loss {total} and gradient norm {norm} were not finite "
                f"{self.skipped_in_a_row} steps in a row (trainer.max_skips={self.max_skips}); "
                f"{self.mend}"
            )
        return UpdateResult(total, norm, lr, applied)

    def state_dict(self) -> dict[str, int]:
        """Counters for the checkpoint."""
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Put the counters back."""
        self.steps = state["steps"]
        self.skipped = state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]


class Totals:
    """Sums of an update's figures over its optimizer steps."""

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}
        self.updates: list[UpdateResult] = []

    def add_shares(self, shares: dict[str, float]) -> None:
        """Add a micro-batch's shares."""
        for name, value in shares.items():
            self.shares[name] = self.shares.get(name, 0.0) + value

    def share_out(self) -> None:
        """Add up the shares of all processes, in their order; called by all of them."""
        everybody = gathered(self.shares)
        self.shares = {}
        for shares in everybody:
            self.add_shares(shares)

    def add_update(self, update: UpdateResult) -> None:
        """Add an optimizer step."""
        self.updates.append(update)

    def metrics(self, prefix: str, skipped: int) -> dict[str, float]:
        """Means over the optimizer steps."""
        n = len(self.updates)
        return {
            f"{prefix}/loss": sum(u.loss for u in self.updates) / n,
            f"{prefix}/grad_norm": sum(u.grad_norm for u in self.updates) / n,
            f"{prefix}/lr": self.updates[-1].lr,
            f"{prefix}/skipped_steps": float(skipped),
            **{f"{prefix}/{name}": total / n for name, total in self.shares.items()},
        }
