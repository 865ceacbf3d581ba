"""Trends by hand, each rule on both sides of its threshold, hysteresis, replay."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import yaml

from cooper.config.schema import Monitor
from cooper.monitoring import MonitorSettings, Thresholds, Watch, replay
from cooper.monitoring.history import History
from cooper.monitoring.rules import RULES
from cooper.monitoring.trends import theil_sen

OFF = Thresholds(**dict.fromkeys([f.name for f in fields(Thresholds)]))


def only(smooth=3, window=6, cooldown=4, action="none", **thresholds):
    alarms = replace(OFF, **thresholds)
    return MonitorSettings(
        window=window, smooth=smooth, cooldown=cooldown, action=action, alarms=alarms
    )


def rows_of(**series):
    """Steps from 1 on; keys as ``reward__mean``, None where nothing was measured."""
    length = max(map(len, series.values()))
    return [
        {"step": n + 1, **{key.replace("__", "/"): values[n] for key, values in series.items()}}
        for n in range(length)
    ]


def test_theil_sen_by_hand():
    # Slopes: 1, 1, 7, 1, 10, 19; sorted 1, 1, 1, 7, 10, 19.
    assert theil_sen([(0, 0), (1, 1), (2, 2), (3, 21)]) == 4.0
    # 1/2, 2/3, 1: uneven x.
    assert theil_sen([(0, 0), (2, 1), (3, 2)]) == pytest.approx(2 / 3)
    assert theil_sen([(1, 5), (4, -1)]) == -2.0
    with pytest.raises(ValueError, match="two points"):
        theil_sen([(1, 1)])


def test_one_wild_step_does_not_bend_a_trend():
    assert theil_sen([(x, 0.1 * x) for x in range(9)] + [(9, 50.0)]) == pytest.approx(0.1)


def test_trend_is_over_the_window_and_leaves_gaps_out():
    history = History(("a",), window=4, smooth=2)
    trends = []
    for step, value in enumerate([9.0, 1.0, None, 2.0, float("nan"), 4.0, 5.0], 1):
        history.add({"step": step, "a": value})
        trends.append(history.trend("a"))
    assert trends[:3] == [None, None, None]
    # Step 4: points (1, 9), (2, 1), (4, 2): slopes -8, -7/3, 1/2.
    assert trends[3].slope == pytest.approx(-7 / 3)
    assert trends[3].steps == 3
    assert trends[3].change == pytest.approx(-7)
    assert trends[4] is None  # steps 2 to 5: only (2, 1), (4, 2)
    assert trends[5] is None  # steps 3 to 6: (4, 2), (6, 4)
    # Steps 4 to 7: (4, 2), (6, 4), (7, 5): all slopes 1.
    assert (trends[6].slope, trends[6].steps) == (1.0, 3)


def test_level_and_start():
    history = History(("a",), window=3, smooth=3)
    seen = []
    for step, value in enumerate([1.0, 5.0, 3.0, 7.0, None, None, 2.0], 1):
        history.add({"step": step, "a": value})
        seen.append((history.level("a"), history.start("a")))
    assert seen == [
        (None, None), (None, None), (3.0, 3.0), (5.0, 3.0), (5.0, 3.0), (None, 3.0), (None, 3.0),
    ]  # fmt: skip


# Of each rule: the series, a threshold that it crosses and one that it does not, the step of the
# alarm, its value.
CASES = {
    "divergence": (
        # +0.02 and -0.03 a step; three points, half a window, are there at step 3.
        {
            "reward__mean": [0.5, 0.52, 0.54, 0.56, 0.58, 0.60],
            "verifier__accuracy": [0.5, 0.47, 0.44, 0.41, 0.38, 0.35],
            "hacking__gap": [0.0] * 6,
        },
        (0.05, 0.11, 4, 0.06),
    ),
    "gap": ({"hacking__gap": [0.0, 0.1, 0.2, 0.4, 0.9]}, (0.3, 0.4, 5, 0.4)),
    "gap_trend": ({"hacking__gap": [0.0, 0.1, 0.2, 0.3]}, (0.25, 0.35, 4, 0.3)),
    "false_positives": (
        {"hacking__false_positive_rate": [0.2, 0.9, 0.2, 0.8, 0.8]},
        (0.7, 0.9, 4, 0.8),
    ),
    "auroc": ({"reward_model__auroc": [0.9, 0.9, 0.4, 0.5, 0.9]}, (0.6, 0.4, 4, 0.5)),
    "heldout_auroc": (
        {"reward_model__heldout_auroc": [0.9, None, None, 0.85, None, 0.7]},
        (0.1, 0.3, 6, 0.2),
    ),
    "tricks": (
        {
            "tricks__repetition": [0.1, 0.0, 0.1, 0.5, 0.5],
            "completions__truncated_frac": [0.3, 0.3, 0.3, 0.4, 0.4],
        },
        (0.3, 0.5, 5, 0.4),
    ),
    "length": (
        {"completions__mean_length": [10.0, 10.0, 12.0, 3.0, 4.0]},
        (0.5, 0.7, 5, 0.6),
    ),
    "entropy": ({"policy__entropy": [1.0, 2.0, 1.0, 0.2, 0.1]}, (0.3, 0.1, 5, 0.2)),
    "kl": ({"policy__kl": [0.0, 0.0, 0.1, 0.3, 0.3]}, (0.2, 0.3, 5, 0.3)),
}


def test_every_rule_has_a_threshold_and_a_case():
    assert list(RULES) == [f.name for f in fields(Thresholds)]
    assert RULES.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    series, (crossed, not_crossed, step, value) = CASES[name]
    rows = rows_of(**series)
    (alarm,) = replay(rows, only(**{name: crossed}))
    assert (alarm.name, alarm.step, alarm.threshold) == (name, step, crossed)
    assert alarm.value == pytest.approx(value)
    assert alarm.key.replace("/", "__") in series
    assert alarm.action == "none"
    assert replay(rows, only(**{name: not_crossed})) == []
    assert replay(rows, only()) == []


def test_divergence_needs_both():
    up = [0.5, 0.55, 0.6, 0.65, 0.7]
    for reward, accuracy in ((up, up), (up[::-1], up[::-1]), (up[::-1], up), (up, [0.5] * 5)):
        rows = rows_of(reward__mean=reward, verifier__accuracy=accuracy, hacking__gap=up)
        assert replay(rows, only(divergence=0.05)) == []
    rows = rows_of(reward__mean=up, verifier__accuracy=up[::-1], hacking__gap=up)
    assert len(replay(rows, only(divergence=0.05))) == 1


def test_verdicts_as_reward_cannot_diverge_from_themselves():
    # They are of different rollouts: a reward of 0 for UNDECIDED, an accuracy of the decided.
    up = [0.5, 0.55, 0.6, 0.65, 0.7]
    rows = rows_of(reward__mean=up, verifier__accuracy=up[::-1])
    assert replay(rows, only(divergence=0.05)) == []


def test_message_says_what_was_measured():
    series, _ = CASES["divergence"]
    (alarm,) = replay(rows_of(**series), only(divergence=0.05))
    assert alarm.message == (
        "step 4, divergence: the reward rose by 0.06 over 3 steps while verified accuracy fell by "
        "0.09; threshold 0.05"
    )
    (alarm,) = replay(rows_of(**CASES["tricks"][0]), only(tricks=0.3))
    assert alarm.message == (
        "step 5, tricks: repetition: 50% of the rollouts (median over 3 steps), 10% in the first "
        "steps; threshold 0.3"
    )


def test_alarm_is_quiet_until_it_has_cleared_and_cooled_down():
    values = [9.0, 9.0, 0.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0]
    alarms = replay(rows_of(policy__kl=values), only(smooth=1, cooldown=4, kl=1.0))
    # Raised at 1; cleared at 3, so quiet up to 7; still above at 8; cleared at 9; quiet up to 13.
    assert [a.step for a in alarms] == [1, 8, 14]


def test_without_figures_an_alarm_neither_clears_nor_comes():
    values = [9.0, None, None, 9.0, 0.0, None, None, 9.0]
    alarms = replay(rows_of(policy__kl=values), only(smooth=1, cooldown=1, kl=1.0))
    assert [a.step for a in alarms] == [1, 8]


def test_rows_without_what_a_rule_needs_raise_nothing():
    rows = rows_of(reward__mean=[0.1 * n for n in range(10)], policy__kl=[math.nan] * 10)
    assert replay(rows, MonitorSettings()) == []
    assert replay([{"step": 0, "val/x": 1.0}], MonitorSettings()) == []


def test_trends_are_figures_of_the_step():
    watch = Watch(only())
    got = [watch.feed(row)[0] for row in rows_of(
        hacking__gap=[0.0, 0.1, 0.2], reward__mean=[0.0, 0.0, 0.4],
        verifier__accuracy=[0.3, 0.2, 0.1], completions__mean_length=[10.0, 20.0, 10.0],
    )]  # fmt: skip
    assert got[:2] == [{}, {}]
    assert got[2] == pytest.approx(
        {
            "hacking/gap_trend": 0.1,
            "hacking/reward_trend": 0.2,  # slopes 0, 0.2, 0.4
            "hacking/accuracy_trend": -0.1,
            "tricks/length_drift": 0.0,
        }
    )


def test_more_updates_are_asked_for_only_while_an_alarm_about_scores_holds():
    settings = only(smooth=1, action="update_more", gap=0.3, kl=0.2)
    watch = Watch(settings)
    rows = rows_of(policy__kl=[9.0, 9.0, 9.0, 9.0], hacking__gap=[0.0, 0.4, 0.4, 0.0])
    seen = []
    for row in rows:
        _, alarms = watch.feed(row)
        seen.append(([a.action for a in alarms], watch.score_alarm_holds))
    assert seen == [(["none"], False), (["update_more"], True), ([], True), ([], False)]


def test_action_stop_is_every_rules():
    alarms = replay(rows_of(policy__kl=[9.0]), only(smooth=1, action="stop", kl=0.2))
    assert [a.action for a in alarms] == ["stop"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 2), ("smooth", 0), ("cooldown", -1), ("every", 0), ("examples", -1),
        ("old_pairs", -1), ("extra_inner_steps", 0), ("action", "shout"),
    ],
)  # fmt: skip
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"monitor.{name}={value}"):
        MonitorSettings(**{name: value})


def test_the_defaults_are_the_same_everywhere():
    file = Path(__file__).parents[2] / "conf" / "monitor" / "default.yaml"
    typed = asdict(Monitor())
    assert yaml.safe_load(file.read_text()) == typed
    assert typed.pop("enabled") is True
    assert asdict(MonitorSettings()) == typed


def test_negative_threshold():
    with pytest.raises(ValueError, match=r"monitor.alarms.gap=-0.1: must be at least 0"):
        Thresholds(gap=-0.1)
