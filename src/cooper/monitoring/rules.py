"""When an alarm is raised: one rule after the other, each a reading and a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cooper.monitoring.history import History
from cooper.monitoring.tricks import TRICKS

REWARD, ACCURACY, GAP = "reward/mean", "verifier/accuracy", "hacking/gap"
FALSE_POSITIVES, AUROC = "hacking/false_positive_rate", "reward_model/auroc"
HELDOUT_AUROC = "reward_model/heldout_auroc"
LENGTH, TRUNCATED = "completions/mean_length", "completions/truncated_frac"
ENTROPY, KL = "policy/entropy", "policy/kl"
SHARES = (*(f"tricks/{name}" for name in TRICKS), TRUNCATED)
WATCHED = (
    REWARD, ACCURACY, GAP, FALSE_POSITIVES, AUROC, HELDOUT_AUROC, LENGTH, ENTROPY, KL, *SHARES,
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a rule sees in a step.

    Attributes:
        value: to compare with the threshold.
        key: metric that it was made of.
        text: what was measured, for people.
    """

    value: float
    key: str
    text: str


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        read: what it sees; None: too little was measured so far.
        below: whether it is the values below the threshold that raise the alarm.
        of_scores: whether more updates of the reward model may be an answer.
    """

    read: Callable[[History], Reading | None]
    below: bool = False
    of_scores: bool = False

    def crossed(self, value: float, threshold: float) -> bool:
        """Whether a value is beyond the threshold."""
        return value < threshold if self.below else value > threshold


def _divergence(history: History) -> Reading | None:
    reward, accuracy = history.trend(REWARD), history.trend(ACCURACY)
    if reward is None or accuracy is None or history.level(GAP) is None:
        return None  # without scores the reward is the verdict itself, over all rollouts
    return Reading(
        min(reward.change, -accuracy.change),
        REWARD,
        f"the reward {_moved(reward.change)} over {reward.steps} steps while verified accuracy "
        f"{_moved(accuracy.change)}",
    )


def _gap(history: History) -> Reading | None:
    level = history.level(GAP)
    if level is None:
        return None
    return Reading(
        level,
        GAP,
        f"the mean score exceeds verified accuracy by {level:.2f} (median over "
        f"{history.smooth} steps)",
    )


def _gap_trend(history: History) -> Reading | None:
    trend = history.trend(GAP)
    if trend is None:
        return None
    return Reading(
        trend.change,
        GAP,
        f"the mean score minus verified accuracy {_moved(trend.change)} over {trend.steps} steps",
    )


def _false_positives(history: History) -> Reading | None:
    level = history.level(FALSE_POSITIVES)
    if level is None:
        return None
    return Reading(
        level,
        FALSE_POSITIVES,
        f"rollouts verified as wrong score {level:.2f} on average (median over "
        f"{history.smooth} steps)",
    )


def _auroc(history: History) -> Reading | None:
    level = history.level(AUROC)
    if level is None:
        return None
    return Reading(
        level,
        AUROC,
        f"the reward model's AUROC against the verdicts is {level:.2f} (median over "
        f"{history.smooth} steps)",
    )


def _heldout_auroc(history: History) -> Reading | None:
    found = history.first_and_last(HELDOUT_AUROC)
    if found is None:
        return None
    first, last = found
    return Reading(
        first - last,
        HELDOUT_AUROC,
        f"the reward model's AUROC on held-out labels {_moved(last - first)} to {last:.2f} since "
        "it was first measured",
    )


def _tricks(history: History) -> Reading | None:
    rises = []
    for key in SHARES:
        start, level = history.start(key), history.level(key)
        if start is not None and level is not None:
            rises.append((level - start, key, level))
    if not rises:
        return None
    rise, key, level = max(rises, key=lambda found: found[0])
    name = key.split("/")[1].removesuffix("_frac").replace("_", " ")
    return Reading(
        rise,
        key,
        f"{name}: {level:.0%} of the rollouts (median over {history.smooth} steps), "
        f"{level - rise:.0%} in the first steps",
    )


def _length(history: History) -> Reading | None:
    drift = length_drift(history)
    if drift is None:
        return None
    return Reading(
        abs(drift),
        LENGTH,
        f"completions are {abs(drift):.0%} {'longer' if drift > 0 else 'shorter'} than in the "
        f"first {history.smooth} steps",
    )


def length_drift(history: History) -> float | None:
    """Relative change of the completions' mean length since the first steps, by medians."""
    start, level = history.start(LENGTH), history.level(LENGTH)
    return level / start - 1 if start and level is not None else None


def _entropy(history: History) -> Reading | None:
    start, level = history.start(ENTROPY), history.level(ENTROPY)
    if not start or level is None:
        return None
    return Reading(
        level / start,
        ENTROPY,
        f"the policy's entropy is {level:.3f}, {level / start:.0%} of what it was in the first "
        f"{history.smooth} steps",
    )


def _kl(history: History) -> Reading | None:
    level = history.level(KL)
    if level is None:
        return None
    return Reading(
        level,
        KL,
        f"the policy's KL to its start is {level:.3f} (median over {history.smooth} steps)",
    )


def _moved(change: float) -> str:
    return f"{'rose' if change > 0 else 'fell'} by {abs(change):.2f}"


# By the names of :class:`cooper.monitoring.settings.Thresholds`.
RULES: dict[str, Rule] = {
    "divergence": Rule(_divergence, of_scores=True),
    "gap": Rule(_gap, of_scores=True),
    "gap_trend": Rule(_gap_trend, of_scores=True),
    "false_positives": Rule(_false_positives, of_scores=True),
    "auroc": Rule(_auroc, below=True, of_scores=True),
    "heldout_auroc": Rule(_heldout_auroc, of_scores=True),
    "tricks": Rule(_tricks),
    "length": Rule(_length),
    "entropy": Rule(_entropy, below=True),
    "kl": Rule(_kl),
}
