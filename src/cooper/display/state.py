"""What is known of a run while it goes on.

The state never changes: each step makes a new one. A display draws it in a thread of its own, and
what it draws must not move under it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cooper.monitoring import Alarm

REWARD, ACCURACY, GAP, AUROC = (
    "reward/mean",
    "verifier/accuracy",
    "hacking/gap",
    "reward_model/auroc",
)
DRAWN = (REWARD, ACCURACY, GAP, AUROC)
_KEPT_STEPS = 60
_TIMED_STEPS = 20


@dataclass(frozen=True)
class Sample:
    """A completion to be looked at.

    Attributes:
        step: in which it was drawn.
        question: that was asked.
        reference: answer.
        completion: of the policy.
        verdict: of the training verifier.
        score: of the reward model, in [0, 1]; None without one.
        reward: what the policy was rewarded with.
    """

    step: int
    question: str
    reference: str
    completion: str
    verdict: str
    score: float | None
    reward: float


@dataclass(frozen=True)
class StepView:
    """What a display gets to see of a step.

    Attributes:
        step: its number, from 1.
        metrics: its figures.
        tokens: that were generated for its rollouts.
        alarms: raised in it.
        sample: a completion of it, or None.
    """

    step: int
    metrics: Mapping[str, float]
    tokens: int = 0
    alarms: Sequence[Alarm] = ()
    sample: Sample | None = None


@dataclass(frozen=True)
class Evaluated:
    """A figure of the evaluation.

    Attributes:
        step: in which it was measured last.
        value: then.
        start: before the first step; None where that is not known.
    """

    step: int
    value: float
    start: float | None


@dataclass(frozen=True)
class RunState:
    """Everything that is shown of a run, but the bars inside it.

    Attributes:
        title: of the run.
        folder: of the run, as text.
        total: RL steps of the whole run.
        done: steps done; None: not known yet.
        metrics: of the last step.
        drawn: the last figures of what is drawn as a line, None where not measured.
        evaluated: figures of the evaluation by key.
        alarms: all of the run, oldest first.
        sample: the last one.
        tokens_per_second: of the last step; None: not known yet.
        seconds: that the last steps took, evaluation and saving included, oldest first.
        at: time of the last step (or of the start), on the display's clock.
    """

    title: str
    folder: str
    total: int
    done: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    drawn: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    evaluated: Mapping[str, Evaluated] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    sample: Sample | None = None
    tokens_per_second: float | None = None
    seconds: tuple[float, ...] = ()
    at: float = 0.0

    def resumed(self, rows: Sequence[Mapping[str, Any]], alarms: Sequence[Alarm]) -> RunState:
        """Take up what the run's folder holds.

        Args:
            rows: of ``metrics.jsonl``; row 0 is the evaluation of the start.
            alarms: of ``alarms.jsonl``.
        """
        state = self
        for row in rows:
            figures = {k: math.nan if v is None else float(v) for k, v in row.items()}
            state = state._measured(int(row["step"]), figures)
        return replace(state, alarms=tuple(alarms))

    def begun(self, done: int, at: float) -> RunState:
        """Say where the run goes on from, and when."""
        return replace(self, done=done, at=at)

    def after(self, view: StepView, at: float) -> RunState:
        """The state after a step.

        Args:
            view: of the step.
            at: when it ended, on the display's clock, in seconds.
        """
        state = self._measured(view.step, view.metrics)
        seconds = view.metrics.get("time/step", 0.0)
        return replace(
            state,
            done=view.step,
            alarms=(*self.alarms, *view.alarms),
            sample=view.sample or self.sample,
            tokens_per_second=view.tokens / seconds if seconds > 0 else None,
            seconds=(*self.seconds, at - self.at)[-_TIMED_STEPS:],
            at=at,
        )

    def _measured(self, step: int, metrics: Mapping[str, float]) -> RunState:
        evaluated = dict(self.evaluated)
        for key, value in metrics.items():
            if key.startswith("val/"):
                before = evaluated.get(key)
                start = before.start if before else value if step == 0 else None
                evaluated[key] = Evaluated(step, value, start)
        if step == 0:
            return replace(self, evaluated=evaluated)
        drawn = {
            key: (*self.drawn.get(key, ()), _known(metrics.get(key)))[-_KEPT_STEPS:]
            for key in DRAWN
        }
        return replace(self, metrics=dict(metrics), drawn=drawn, evaluated=evaluated)

    @property
    def seconds_a_step(self) -> float | None:
        """Mean over the last steps; None before the first one."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else None

    def seconds_left(self, now: float) -> float | None:
        """Time left by the pace of the last steps; None before the first one."""
        pace = self.seconds_a_step
        if pace is None or self.done is None:
            return None
        left = (self.total - self.done) * pace
        # The running step has been going on for a while, but never ends before its time.
        return left - min(now - self.at, pace, left)

    def figure(self, key: str) -> float | None:
        """A figure of the last step; None where it was not measured."""
        return _known(self.metrics.get(key))

    def mean(self, key: str, steps: int = 10) -> float | None:
        """Mean of a drawn figure over the last steps; None where there is none."""
        known = [v for v in self.drawn.get(key, ())[-steps:] if v is not None]
        return sum(known) / len(known) if known else None

    def averages(self) -> dict[str, Evaluated]:
        """The evaluation's ``avg_at_k`` of whole sets, by what to call them."""
        found = {}
        for key, value in self.evaluated.items():
            name, _, metric = key.removeprefix("val/").rpartition("/")
            if metric.startswith("avg_at_") and "." not in name:
                found[f"{name} {metric.replace('_at_', '@')}"] = value
        return found


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
