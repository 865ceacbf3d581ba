"""Optimizer, schedule and clipping of one model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from cooper.checks import at_least, at_most, one_of

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with a warm-up, a schedule and a gradient clip.

    The schedule counts this model's own optimizer steps: an RL step that was skipped, or that gave
    no pairs to learn from, does not advance it.

    Args:
        lr: peak learning rate.
        weight_decay: decoupled, on all trained parameters (veRL's convention).
        betas: decay of the running means.
        eps: added to the denominator.
        clip_norm: largest gradient norm; 0 switches clipping off.
        schedule: after the warm-up: "constant", "linear" or "cosine" to zero.
        warmup_steps: optimizer steps from 0 to `lr`.
        warmup_ratio: the same as a share of all steps; used when warmup_steps is 0.
    """

    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 1.0
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a setting is out of its range.
        """
        at_least(
            "optimizer", self, lr=0, weight_decay=0, clip_norm=0, warmup_steps=0, warmup_ratio=0
        )
        at_most("optimizer", self, warmup_ratio=1)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas={list(self.betas)}: each must lie in [0, 1)")
        if not self.eps > 0:
            # A weight without a gradient would move by 0/0.
            raise ValueError(f"optimizer.eps={self.eps}: must be above 0")
        one_of("optimizer.schedule", self.schedule, ("constant", "linear", "cosine"))

    def build(
        self, parameters: Iterable[nn.Parameter], total_steps: int
    ) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """Make the optimizer over the parameters that need gradients, and its schedule.

        Args:
            parameters: frozen ones are left out.
            total_steps: optimizer steps of the whole run.
        """
        trained = [p for p in parameters if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            lr=self.lr,
            betas=(float(self.betas[0]), float(self.betas[1])),  # 0 is read as an int
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,  # one pass over the weights, on CPU too
        )
        warmup = self.warmup_steps or round(self.warmup_ratio * total_steps)
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        scheduler = get_scheduler(
            name, optimizer, num_warmup_steps=warmup, num_training_steps=max(total_steps, 1)
        )
        return optimizer, scheduler


def set_schedule(scheduler: LRScheduler, steps: int) -> None:
    """Put a fresh schedule where it stands after so many optimizer steps.

    Nothing of an earlier schedule is taken over, so a changed rate or length counts at once.

    Raises:
        TypeError: the schedule is no function of the step alone.
    """
    if not isinstance(scheduler, LambdaLR):
        raise TypeError(f"expected a LambdaLR, not {type(scheduler).__name__}")
    scheduler.last_epoch = steps
    rates = [
        base * factor(steps)
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
