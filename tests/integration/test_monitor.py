"""The monitor in real runs: what it writes, what it leaves alone, what its actions do."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_runs import metrics_of

from cooper.monitoring import MonitorSettings, Thresholds, replay
from cooper.run_folder import RunFolder

TRICKS = {f"tricks/{n}" for n in ("repetition", "several_answers", "no_answer", "reference_pasted")}
TRENDS = {"hacking/gap_trend", "hacking/reward_trend", "hacking/accuracy_trend"}
ON_HELDOUT = {
    "reward_model/heldout_accuracy", "reward_model/heldout_auroc", "reward_model/probe_drift",
    "reward_model/probe_correlation",
}  # fmt: skip
ON_OLD_PAIRS = {"reward_model/old_pairs_margin", "reward_model/old_pairs_accuracy"}
OWN = TRICKS | TRENDS | ON_HELDOUT | ON_OLD_PAIRS | {"tricks/length_drift"}
# Small windows, and thresholds so low that alarms come in a few steps of any run.
JUMPY = (
    "trainer.max_steps=6", "monitor.window=3", "monitor.smooth=2", "monitor.every=2",
    "monitor.cooldown=1", "monitor.alarms.auroc=0.99", "monitor.alarms.kl=0",
    "monitor.alarms.false_positives=0.01", "monitor.alarms.length=0.05",
)  # fmt: skip


def settings_of(run) -> MonitorSettings:
    given = yaml.safe_load((run / "config.yaml").read_text())["monitor"]
    del given["enabled"]
    return MonitorSettings(**{**given, "alarms": Thresholds(**given["alarms"])})


def keys_by_step(run) -> dict[int, set[str]]:
    return {row["step"]: OWN & set(row) for row in metrics_of(run)}


def test_figures_stand_in_the_steps_that_they_are_due_in(cli, tmp_path):
    assert cli("paths.run_dir=r", *JUMPY).code == 0
    keys = keys_by_step(tmp_path / "r")
    rows = metrics_of(tmp_path / "r")
    built = [row.get("pairs/built", 0) for row in rows]
    assert sum(built[:4]) > 0
    earlier = {step: ON_OLD_PAIRS if sum(built[:step]) else set() for step in keys}
    drift = {"tricks/length_drift"}
    assert keys[0] == set()
    assert keys[1] == TRICKS | ON_HELDOUT
    assert keys[2] == TRICKS | ON_HELDOUT | drift | earlier[2]
    assert keys[3] == TRICKS | TRENDS | drift
    assert keys[4] == OWN
    assert rows[1]["reward_model/probe_correlation"] > 0.9  # one small update after the start
    lines = [json.loads(x) for x in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["time/monitor"] > 0 for row in lines[1:])


def test_static_and_rule_runs(cli, tmp_path):
    assert cli("paths.run_dir=s", "reward=static", *JUMPY).code == 0
    assert cli("paths.run_dir=u", "reward=rule", *JUMPY).code == 0
    static, rule = metrics_of(tmp_path / "s"), keys_by_step(tmp_path / "u")
    measured = [row for row in static if "reward_model/heldout_auroc" in row]
    assert [row["step"] for row in measured] == [1, 2, 4, 6]
    assert {row["reward_model/heldout_auroc"] for row in measured} == {
        measured[0]["reward_model/heldout_auroc"]
    }
    assert {row["reward_model/probe_drift"] for row in measured} == {0.0}
    assert not any(ON_OLD_PAIRS & set(row) for row in static)
    assert rule[6] == TRICKS | (TRENDS - {"hacking/gap_trend"}) | {"tricks/length_drift"}
    names = {alarm["name"] for alarm in RunFolder(tmp_path / "u").read_alarms()}
    assert names <= {"kl", "length", "tricks", "entropy"}
    assert "kl" in names


def test_alarms_are_written_said_and_the_same_in_a_replay(cli, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="cooper.monitoring")
    assert cli("paths.run_dir=r", *JUMPY).code == 0
    folder = RunFolder(tmp_path / "r")
    written = folder.read_alarms()
    assert {"auroc", "kl", "false_positives"} <= {alarm["name"] for alarm in written}
    replayed = replay(folder.read_metrics(), settings_of(folder.path))
    assert [asdict(alarm) for alarm in replayed] == [
        {k: v for k, v in alarm.items() if k != "rollouts"} for alarm in written
    ]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(written)
    for alarm, line in zip(written, said, strict=True):
        assert alarm["message"] in line
        assert "\n" not in line
        rows = [json.loads(x) for x in (folder.path / alarm["rollouts"]).read_text().splitlines()]
        assert 0 < len(rows) <= 10
        assert {row["step"] for row in rows} == {alarm["step"]}
        assert all(row["verdict"] != "correct" for row in rows)
        assert {"question", "reference", "completion", "score", "reason"} <= set(rows[0])


@pytest.mark.parametrize("reward", ["cooper", "static", "rule"])
def test_the_curve_is_the_same_without_it(cli, tmp_path, reward):
    assert cli("paths.run_dir=on", f"reward={reward}", *JUMPY).code == 0
    assert (
        cli("paths.run_dir=off", f"reward={reward}", "monitor=none", "trainer.max_steps=6").code
        == 0
    )
    on, off = metrics_of(tmp_path / "on"), metrics_of(tmp_path / "off")
    assert [{k: v for k, v in row.items() if k not in OWN} for row in on] == off
    assert not any("time/monitor" in x for x in (tmp_path / "off/metrics.jsonl").open())
    states = [
        torch.load(tmp_path / r / "checkpoints/000006/trainer.pt", weights_only=True)
        for r in ("on", "off")
    ]
    drawn = [state["global_generators"][0]["cpu"] for state in states]
    assert torch.equal(*drawn)  # dropout would draw from it
    for model in ("policy", "reward_model"):
        if reward != "rule":
            weights = [
                (tmp_path / r / model / "model.safetensors").read_bytes() for r in ("on", "off")
            ]
            assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "extra",
    [
        ["monitor.action=update_more"],
        ["reward=static", "monitor.old_pairs=0"],
        [
            "monitor.old_pairs=5", "algorithm.dynamic_sampling=2", "reward_objective.every=2",
            "reward_objective.ema_decay=0.9",
        ],
    ],
    ids=["update-more", "static", "refill-every-average"],
)  # fmt: skip
def test_resumed_to_the_bit(cli, tmp_path, extra):
    given = [*JUMPY, "checkpoints.every=3", *extra]
    assert cli("paths.run_dir=whole", *given).code == 0
    assert cli("paths.run_dir=parts", "checkpoints.keep_last=0", *given).code == 0
    (tmp_path / "parts" / "checkpoints" / "000006").rename(tmp_path / "gone")
    result = cli("paths.run_dir=parts", "ckpt_path=last", *given)
    assert result.code == 0, result.err
    assert "resuming after step 3" in result.out
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert metrics_of(parts.path) == metrics_of(whole.path)
    assert parts.read_alarms() == whole.read_alarms() != []
    for alarm in whole.read_alarms():
        name = alarm["rollouts"]
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()
    for model in ("policy", "reward_model"):
        files = [run.path / model / "model.safetensors" for run in (whole, parts)]
        a, b = map(load_file, files)
        assert all((a[k] == b[k]).all() for k in a)


def test_stop_saves_and_says_why(cli, tmp_path):
    result = cli("paths.run_dir=r", *JUMPY, "monitor.action=stop", "quiet=false")
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    folder = RunFolder(tmp_path / "r")
    alarms = folder.read_alarms()
    assert summary["status"] == "stopped"
    assert summary["steps"] == alarms[0]["step"] < 6
    assert summary["reason"] == "; ".join(alarm["message"] for alarm in alarms)
    assert f"stopped by the monitor: {alarms[0]['message']}" in result.out
    assert folder.checkpoint_steps() == [summary["steps"]]
    # Going on is the user's word: what holds already does not stop the run again.
    again = cli("paths.run_dir=r", "ckpt_path=last", *JUMPY, "monitor.action=none")
    assert again.code == 0, again.err
    finished = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert finished["status"] == "finished"
    assert "reason" not in finished


def test_update_more_takes_more_inner_steps_while_an_alarm_holds(cli, tmp_path):
    one = [
        "trainer.max_steps=5", "monitor.smooth=2", "monitor.alarms.auroc=1",
        "checkpoints.keep_last=0", "checkpoints.every=1",
    ]  # fmt: skip
    assert (
        cli(
            "paths.run_dir=r", "monitor.action=update_more", "monitor.extra_inner_steps=2", *one
        ).code
        == 0
    )
    folder = RunFolder(tmp_path / "r")
    import torch

    steps = [
        torch.load(folder.checkpoint(n) / "trainer.pt")["updaters"]["reward_model"]["steps"]
        for n in folder.checkpoint_steps()
    ]
    rows = metrics_of(folder.path)[1:]
    built = [row["pairs/built"] > 0 for row in rows]
    (alarm,) = [a for a in folder.read_alarms() if a["name"] == "auroc"]
    assert alarm["action"] == "update_more"
    expected, done = [], 0
    for step, has_pairs in enumerate(built, 1):
        done += (3 if step > alarm["step"] else 1) if has_pairs else 0
        expected.append(done)
    assert steps == expected
    assert sum(built[alarm["step"] :]) > 0
    assert {row["reward_model/lr"] for row in rows[-1:]} == {2.5e-4}


def test_accuracy_floor_measures_first(cli, tmp_path):
    given = [
        "reward_objective=pairwise_replay", "reward_objective.accuracy_floor=0.9",
        "reward_objective.max_inner_steps=2", "monitor.examples=8", "monitor.every=1",
    ]  # fmt: skip
    assert cli("paths.run_dir=on", *given).code == 0
    assert cli("paths.run_dir=off", *given, "monitor=none").code == 0
    key = "reward_model/heldout_auroc"
    on, off = ([row.get(key) for row in metrics_of(tmp_path / r)[1:]] for r in ("on", "off"))
    assert None not in on
    assert [a for a, b in zip(on, off, strict=True) if b is not None] == [
        b for b in off if b is not None
    ] != []  # fmt: skip


def test_without_held_out_labels_it_says_nothing(cli, tmp_path):
    assert cli("paths.run_dir=r", "monitor.examples=0", "monitor.old_pairs=0", *JUMPY).code == 0
    assert keys_by_step(tmp_path / "r")[6] == TRICKS | TRENDS | {"tricks/length_drift"}
