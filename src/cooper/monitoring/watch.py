"""Rows of figures in, trends and alarms out: during a run, or afterwards from its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cooper.monitoring.alarms import Alarm
from cooper.monitoring.history import History
from cooper.monitoring.rules import ACCURACY, GAP, REWARD, RULES, WATCHED, length_drift
from cooper.monitoring.settings import MonitorSettings


@dataclass
class _State:
    """Where one rule stands."""

    holds: bool = False
    quiet_until: int = 0  # the step after which it may raise an alarm again


class Watch:
    """Turns a run's rows, fed in their order, into trends and alarms.

    A rule whose alarm holds is quiet until its reading has come back over the threshold and the
    cooldown has passed. Nothing but the rows counts, so the same rows give the same alarms.

    Args:
        settings: windows and thresholds.
    """

    def __init__(self, settings: MonitorSettings) -> None:
        self.settings = settings
        self.history = History(WATCHED, settings.window, settings.smooth)
        self._states = {name: _State() for name in RULES}

    def feed(self, row: Mapping[str, Any]) -> tuple[dict[str, float], list[Alarm]]:
        """Take in a step.

        Args:
            row: ``{"step": ..., key: figure}``; None and what is not finite count as absent.

        Returns:
            the figures that need more than one step, and the alarms raised in this one.
        """
        self.history.add(row)
        return self._trends(), self._alarms()

    @property
    def score_alarm_holds(self) -> bool:
        """Whether an alarm holds to which more updates of the reward model may be an answer."""
        return any(self._states[name].holds for name, rule in RULES.items() if rule.of_scores)

    def _trends(self) -> dict[str, float]:
        keys = {GAP: "gap_trend", REWARD: "reward_trend", ACCURACY: "accuracy_trend"}
        trends = {f"hacking/{name}": self.history.trend(key) for key, name in keys.items()}
        figures = {name: trend.slope for name, trend in trends.items() if trend is not None}
        drift = length_drift(self.history)
        return figures if drift is None else {**figures, "tricks/length_drift": drift}

    def _alarms(self) -> list[Alarm]:
        step, alarms = self.history.step, []
        for name, rule in RULES.items():
            threshold: float | None = getattr(self.settings.alarms, name)
            state = self._states[name]
            if threshold is None or (reading := rule.read(self.history)) is None:
                continue  # without a reading it is not known to have cleared either
            crossed = rule.crossed(reading.value, threshold)
            if state.holds and not crossed:
                state.holds, state.quiet_until = False, step + self.settings.cooldown
            elif crossed and not state.holds and step > state.quiet_until:
                state.holds = True
                action = self.settings.action
                if action == "update_more" and not rule.of_scores:
                    action = "none"
                message = f"step {step}, {name}: {reading.text}; threshold {threshold:g}"
                alarms.append(
                    Alarm(step, name, reading.key, reading.value, threshold, message, action)
                )
        return alarms


def replay(rows: Iterable[Mapping[str, Any]], settings: MonitorSettings) -> list[Alarm]:
    """The alarms that a run would have raised with these settings.

    Args:
        rows: of its ``metrics.jsonl``, in their order; those of step 0 are passed over.
        settings: windows and thresholds.
    """
    watch = Watch(settings)
    return [alarm for row in rows if row["step"] > 0 for alarm in watch.feed(row)[1]]
