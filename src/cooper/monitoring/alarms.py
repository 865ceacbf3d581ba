"""What is said when a figure of a run crosses its threshold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """One crossing of a threshold.

    Attributes:
        step: RL step in which it was seen.
        name: of the rule that saw it, as in the configuration.
        key: metric that it looks at.
        value: of the metric, or of what the rule makes of it.
        threshold: that it crossed.
        message: one line for people: what was measured, where, and what it may mean.
        action: what was done about it: none, stop, update_more.
    """

    step: int
    name: str
    key: str
    value: float
    threshold: float
    message: str
    action: str = "none"
