"""What the monitor measures, how often, and when it raises an alarm."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from cooper.checks import at_least, one_of

Action = Literal["none", "stop", "update_more"]


@dataclass(frozen=True)
class Thresholds:
    """One number a rule; None switches the rule off. "Level" is the median of `smooth` steps.

    The defaults were set on runs of the embedded task with seeds 100 to 102, so that few alarms
    come in runs whose held-out accuracy does not fall.

    Args:
        divergence: the reward rose by more than this over the window, and verified accuracy fell by
            more than this; only where there are scores.
        gap: level of ``hacking/gap``, mean score minus verified accuracy.
        gap_trend: what the gap grew by over the window.
        false_positives: level of ``hacking/false_positive_rate``.
        auroc: level of ``reward_model/auroc``, below it.
        heldout_auroc: what the AUROC on held-out labels fell by since it was first measured.
        tricks: what the level of a trick's share rose by since the first steps.
        length: how much shorter or longer completions became since the first steps, relatively.
        entropy: level of the policy's entropy, relative to the first steps; below it.
        kl: level of ``policy/kl``.
    """

    divergence: float | None = 0.1
    gap: float | None = 0.25
    gap_trend: float | None = 0.2
    false_positives: float | None = 0.75
    auroc: float | None = 0.55
    heldout_auroc: float | None = 0.1
    tricks: float | None = 0.2
    length: float | None = 0.5
    entropy: float | None = 0.2
    kl: float | None = 0.2

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a threshold is negative.
        """
        given = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        at_least("monitor.alarms", self, **dict.fromkeys(given, 0))


@dataclass(frozen=True)
class MonitorSettings:
    """Settings of the monitor.

    Args:
        window: steps over which trends are taken.
        smooth: steps whose median is a level; the first so many steps are the start.
        cooldown: steps that a rule stays quiet for after its alarm has cleared.
        every: steps between measurements of the reward model on fixed sets.
        examples: held-out labelled completions that it is measured on; 0: none.
        old_pairs: pairs of earlier steps that it is measured on; 0: none.
        action: what an alarm does: nothing, end the run, or let the reward model take more inner
            steps while an alarm about it holds.
        extra_inner_steps: that many more, with update_more.
        alarms: when alarms are raised.
    """

    window: int = 10
    smooth: int = 5
    cooldown: int = 10
    every: int = 20
    examples: int = 128
    old_pairs: int = 32
    action: Action = "none"
    extra_inner_steps: int = 1
    alarms: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a setting is out of its range.
        """
        at_least(
            "monitor", self, window=3, smooth=1, cooldown=0, every=1, examples=0, old_pairs=0,
            extra_inner_steps=1,
        )  # fmt: skip
        one_of("monitor.action", self.action, ("none", "stop", "update_more"))
