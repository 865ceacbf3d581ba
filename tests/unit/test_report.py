"""Reports from tiny made-up run folders: arms, labels, hand-computed figures, damaged runs."""

from __future__ import annotations

import json
import os
import sys

import pytest
import yaml
from matplotlib import pyplot as plt

from cooper.cli.report import main
from cooper.errors import ConfigError, DataError
from cooper.files import claim
from cooper.report import drawing, find_runs, group, training_dynamics
from cooper.report.arm_figures import stretches
from cooper.report.results import figures_of, main_metric, results
from cooper.report.statistics import average, mean_of, t_quantile
from cooper.run_folder import RunFolder

STATIC = {"_target_": "cooper.rewards.ModelReward", "train_model": False, "gate": "none"}
COOPER = {**STATIC, "train_model": True}
RULE = {"_target_": "cooper.rewards.RuleReward"}
VAL = "val/sums/avg_at_8"


def row(step, reward=None, val=None, **more):
    found = {"step": step}
    if reward is not None:
        found |= {"reward/mean": reward, "verifier/accuracy": 0.5}
    return found | ({VAL: val} if val is not None else {}) | more


ROWS = [row(0, val=0.4), row(1, 0.2), row(2, 0.4, 0.5), row(3, 0.6), row(4, 0.8, 0.7)]


@pytest.fixture
def write(tmp_path):
    """Write a run folder: finished, unless its summary is left out."""

    def write(place, rows=ROWS, seed=0, reward=RULE, summary=True, alarms=(), **more):
        folder = tmp_path / "runs" / place
        folder.mkdir(parents=True)
        config = {
            "name": "sums", "seed": seed, "quiet": False, "ckpt_path": None,
            "paths": {"run_dir": str(folder), "cache_dir": "/cache"},
            "policy": {"_target_": "cooper.models.sources.WarmStarted"},
            "algorithm": {"kl_coef": 0.001, "clip_low": 0.2},
            "reward": reward,
            "data": {"train": {"seed": seed}},
            "callbacks": {"log": {"path": f"{folder}/log"}},
            "optimizer": {"steps": 1},
            "warm_start": {"steps": 1},
            "logger": {"save_dir": str(folder)},
            "trainer": {"max_steps": 4},
        }  # fmt: skip
        for key, value in more.items():
            *parts, last = key.split("__")
            node = config
            for part in parts:
                node = node[part]
            node[last] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        lines = "".join(json.dumps(r) + "\n" for r in rows)
        (folder / "metrics.jsonl").write_text(lines)
        if summary:
            last = rows[-1]["step"] if rows else 0
            facts = {"status": "finished", "steps": last, "cpu_seconds": 10.0 + seed}
            (folder / "summary.json").write_text(json.dumps(facts))
        if alarms:
            found = [
                {"step": step, "name": "gap", "key": "hacking/gap", "value": 0.31,
                 "threshold": 0.3, "message": f"gap | 0.31 in step {step}", "action": "none",
                 "rollouts": f"alarms/{step:06d}_gap.jsonl"}
                for step in alarms
            ]  # fmt: skip
            (folder / "alarms.jsonl").write_text("".join(json.dumps(a) + "\n" for a in found))
        return folder

    return write


@pytest.fixture
def read(tmp_path):
    """The runs below the folder that ``write`` writes to."""
    return lambda: find_runs([tmp_path / "runs"])[0]


def lifted(by):
    """The rows with held-out accuracy raised after the start."""
    return [{**r, VAL: r[VAL] + by} if r["step"] and VAL in r else r for r in ROWS]


# Statistics


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, upper critical values at 0.975
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (100, 1.984)],
)
def test_quantile_of_students_t(freedom, quantile):
    assert round(t_quantile(freedom), 3) == quantile


def test_mean_and_interval_by_hand():
    # Mean 2, standard deviation 1, so half of the interval is 4.303 / sqrt(3).
    found = mean_of([1.0, 2.0, 3.0])
    assert (found.value, found.runs) == (2.0, 3)
    assert found.half == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert mean_of([5.0]).half is None
    assert mean_of([]) is None


def test_average_is_over_the_runs_that_reach_a_step():
    curve = average([([0, 2, 4], [0.0, 0.2, 0.4]), ([0, 2], [0.2, 0.6]), ([], [])])
    assert curve.steps == [0, 2, 4]
    assert curve.mean == pytest.approx([0.1, 0.4, 0.4])
    assert curve.low == pytest.approx([0.0, 0.2, 0.4])
    assert curve.high == pytest.approx([0.2, 0.6, 0.4])
    assert curve.runs == [2, 2, 1]
    assert stretches(curve.runs) == [(0, 1), (2, 2)]


def test_average_bridges_a_step_that_one_run_did_not_measure():
    curve = average([([1, 2, 3], [0.0, 0.0, 0.0]), ([1, 3], [0.2, 0.6])])
    assert curve.mean == pytest.approx([0.1, 0.2, 0.3])
    assert curve.runs == [2, 2, 2]


# Arms and their labels


def test_runs_that_differ_in_seed_and_place_are_one_arm(write, read):
    write("b", seed=1, quiet=True, name="other", ckpt_path="last")
    write("a", seed=0)
    (arm,) = group(read())
    assert [run.name for run in arm.runs] == ["a", "b"]
    assert arm.label == "reward=rule"


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        ({"reward": STATIC}, ["reward=rule", "reward=static"]),
        ({"reward": COOPER}, ["reward=rule", "reward=cooper"]),
        ({"algorithm__kl_coef": 0.1}, ["kl_coef=0.001", "kl_coef=0.1"]),
        ({"policy": {"_target_": "mine.Other"}}, ["policy=WarmStarted", "policy=Other"]),
        # What only the other part takes is said by its name.
        ({"policy": {"_target_": "a.B", "depth": 3}}, ["policy=WarmStarted", "policy=B"]),
        ({"warm_start__steps": 2}, ["warm_start.steps=1", "warm_start.steps=2"]),
        ({"algorithm__replay": 8}, ["replay=not set", "replay=8"]),
        ({"data__train": {"seed": 7}}, ["train.seed=0", "train.seed=7"]),
    ],
)
def test_label_names_what_differs(write, read, change, labels):
    write("1")
    write("2", **change)
    assert [arm.label for arm in group(read())] == labels


def test_label_leaves_out_what_the_reward_explains_and_what_most_arms_have(write, read):
    write("1")
    write("2", reward=STATIC)
    write("3", reward=COOPER)
    write("4", reward={**COOPER, "gate": "rule"})
    write("5", reward=COOPER, algorithm__kl_coef=0.1)
    write("6", reward=STATIC, policy={"_target_": "mine.Other"})
    assert [arm.label for arm in group(read())] == [
        "reward=rule", "reward=static", "reward=cooper", "reward=cooper, gate=rule",
        "reward=cooper, kl_coef=0.1", "reward=static, policy=Other",
    ]  # fmt: skip


def test_label_begins_with_a_choice_even_if_most_arms_made_it(write, read):
    write("1")
    write("2", algorithm__kl_coef=0.1)
    write("3", policy={"_target_": "mine.Other"})
    assert [arm.label for arm in group(read())] == [
        "policy=WarmStarted", "policy=WarmStarted, kl_coef=0.1", "policy=Other",
    ]  # fmt: skip


def test_keys_of_the_same_last_name_are_told_apart(write, read):
    write("1", a={"lr": 1}, b={"lr": 1})
    write("2", a={"lr": 2}, b={"lr": 1})
    write("3", a={"lr": 3}, b={"lr": 2})
    assert [arm.label for arm in group(read())] == ["a.lr=1", "a.lr=2", "a.lr=3, b.lr=2"]


def test_one_run_of_the_same_settings_and_seed_counts(write, read):
    write("1", rows=ROWS[:3], summary=False)
    write("2")
    write("3", seed=1)
    (arm,) = group(read())
    assert [run.name for run in arm.runs] == ["2", "3"]
    assert [run.name for run in arm.doubled] == ["1"]


def test_arms_by_chosen_settings(write, read):
    write("1", algorithm__kl_coef=0.1)
    write("2", algorithm__kl_coef=0.2)
    write("3", reward=STATIC)
    found = group(read(), by=["reward"])
    assert found[0].settings["algorithm.kl_coef"] == "varies"
    assert [(arm.label, len(arm.runs)) for arm in found] == [
        ("reward=rule", 2),
        ("reward=static", 1),
    ]
    assert results(found)["arms"]["reward=rule"]["varying"] == ["algorithm.kl_coef"]


def test_another_setting_tells_the_runs_of_an_arm_apart(write, read):
    write("1", algorithm__kl_coef=0.1)
    write("2", algorithm__kl_coef=0.2)
    (arm,) = group(read(), seed_key="algorithm.kl_coef")
    assert len(arm.runs) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"by": ["algorithm.kl_coeff"]}, "--by=algorithm.kl_coeff.*did you mean algorithm.kl_coef"),
        ({"seed_key": "seeds"}, "--seed-key=seeds.*did you mean seed"),
    ],
)
def test_unknown_settings_are_refused(write, read, options, told):
    write("1")
    with pytest.raises(ConfigError, match=told):
        group(read(), **options)


def test_natural_order(write, read):
    for name in ("10-b", "9-a", "1-c"):
        write(name)
    assert [run.name for run in read()] == ["1-c", "9-a", "10-b"]


# Figures by hand


def test_figures_of_one_run_by_hand(write, read):
    write("1", alarms=[3])
    found = figures_of(read()[0], VAL)
    assert (found["start"], found["end"], found["end_step"]) == (0.4, 0.7, 4)
    assert (found["best"], found["best_step"]) == (0.7, 4)
    assert found["gain"] == pytest.approx((0.5 + 0.7) / 2 - 0.4)
    assert found["reward"] == (0.2, 0.8)
    assert found["auroc"] is None
    assert found["cpu_seconds"] == 10.0
    assert [a["step"] for a in found["alarms"]] == [3]


def test_gain_takes_the_last_three_evaluations(write, read):
    write("1", rows=[row(i, val=v) for i, v in enumerate([0.1, 0.9, 0.2, 0.3, 0.4])])
    assert figures_of(read()[0], VAL)["gain"] == pytest.approx(0.3 - 0.1)


def test_arm_by_hand(write, read):
    write("1", seed=0, alarms=[3, 4])
    write("2", seed=1, rows=lifted(0.2), alarms=[2])
    write("3", seed=2, rows=lifted(-0.3)[:3], summary=False)
    (arm,) = results(group(read()))["arms"].values()
    assert arm["count"] == 3
    # The third run came to step 2 only: it counts at the start and nowhere after it.
    assert arm["start"] == {"value": pytest.approx(0.4), "half": pytest.approx(0), "runs": 3}
    # Ends .7 and .9: mean .8, deviation .1414, half 12.706 * .1414 / sqrt(2) = 1.2706.
    assert arm["end"]["value"] == pytest.approx(0.8)
    assert arm["end"]["half"] == pytest.approx(1.2706, abs=1e-4)
    assert (arm["end"]["runs"], arm["end_step"]) == (2, 4)
    assert arm["gain"]["value"] == pytest.approx(0.3)
    assert (arm["alarmed"], arm["first_alarm"]) == (2, 2)
    assert arm["cpu_seconds"]["value"] == 10.5


def test_main_metric_is_the_set_that_most_runs_evaluate(write, read):
    rows = [{**r, "val/test/avg_at_8": 0.1} if r["step"] in (0, 4) else r for r in ROWS]
    rows = [{**r, "val/sums.hard/avg_at_8": 0.2, "val/sums/greedy": 0.3} for r in rows]
    write("1", rows=rows)
    assert main_metric(read()) == VAL
    write("2", rows=[{"step": 0, "val/test/avg_at_8": 0.5}])
    assert main_metric(read()) == "val/test/avg_at_8"


# Runs as they are found


def test_states(write, read):
    write("1 finished")
    write("2 killed", summary=False)
    write("3 empty", rows=[], summary=False)
    # Resumed after its summary was written, and killed later.
    folder = write("4 resumed")
    (folder / "summary.json").write_text('{"status": "interrupted", "steps": 2}')
    folder = write("5 failed")
    (folder / "summary.json").write_text('{"status": "failed", "steps": 4}')
    held = claim(write("6 running"))
    try:
        assert [run.state for run in read()] == [
            "finished", "killed", "killed", "killed", "failed", "running",
        ]  # fmt: skip
    finally:
        os.close(held)


def test_looking_at_a_run_does_not_hold_it(write, read):
    folder = RunFolder(write("1"))
    read()
    with folder.claimed():
        pass


def test_damaged_files_are_noted_and_the_rest_counts(write, read):
    folder = write("1", rows=[*ROWS[:3], {"step": 3, "reward/mean": None, VAL: "x"}])
    with (folder / "metrics.jsonl").open("ab") as out:
        out.write(b'\xff\x00\n[1]\n{"step": 4, "val/sums/avg_at_8": NaN}\n{"step": 5, "rew')
    (run,) = read()
    assert [r["step"] for r in run.rows] == [0, 1, 2, 3, 4]
    assert run.notes == (
        "metrics.jsonl, line 5 of 8: no object with a step",
        "metrics.jsonl, line 6 of 8: no object with a step",
    )
    assert figures_of(run, VAL)["end"] == 0.5


def test_settings_that_cannot_be_read_make_an_arm_of_their_own(write, read):
    write("1")
    folder = write("2")
    (folder / "config.yaml").write_text("a: [1\nb: 2\n")
    folder = write("3")
    (folder / "config.yaml").unlink()
    found = group(read())
    assert [arm.label for arm in found] == [
        "reward=rule", "2 (settings unknown)", "3 (settings unknown)",
    ]  # fmt: skip
    assert found[1].runs[0].notes == ("config.yaml, line 2: is no YAML that can be read",)
    assert found[2].runs[0].notes == ("no config.yaml",)


def test_what_is_no_run_of_ours_is_left_out(write, tmp_path):
    folder = write("1")
    (folder / "checkpoints" / "000004").mkdir(parents=True)
    (folder / "checkpoints" / "000004" / "config.yaml").write_text("policy: 1")
    write(".2.part")
    other = write("3 other program")
    (other / "config.yaml").write_text("backbone: {path: x}")
    (tmp_path / "runs" / "config.yaml").write_text("mine: 1")
    runs, others = find_runs([tmp_path / "runs", folder])
    assert [run.name for run in runs] == ["runs/1"]
    assert others == ["runs", "runs/3 other program"]


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no run here or below"):
        find_runs([tmp_path])
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_runs([tmp_path / "nowhere"])


# The command


@pytest.fixture
def report(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["cooper-report", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def table(text, heading):
    """The cells of the first table after a heading."""
    lines = text.split(f"## {heading}\n", 1)[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    found = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [found[0], *found[2:]]


def everything(write):
    """Two arms with groups, alarms, a reward model and a killed run."""
    extra = {
        "val/sums.easy/avg_at_8": 0.6, "val/sums.hard/avg_at_8": 0.2, "val/sums/greedy": 0.3,
        "reward_model/auroc": 0.9, "hacking/gap": 0.1, "hacking/gap_trend": -0.01,
        "tricks/repetition": 0.02, "reward_model/probe_drift": 0.1,
    }  # fmt: skip
    write("0-a", alarms=[3])
    write("1-b", seed=1, rows=lifted(0.1))
    rich = [{**r, **extra} for r in ROWS]
    write("2-c", reward=STATIC, rows=rich, alarms=[2, 4])
    write("3-d", reward=STATIC, rows=rich[:3], seed=1, summary=False)


def test_report_of_a_sweep(write, report, tmp_path):
    everything(write)
    code, out, err = report("runs")
    assert (code, err) == (0, "")
    assert "reward=static" in out
    assert "report: runs/report/report.md" in out
    folder = tmp_path / "runs" / "report"
    names = [
        f"{f}.{k}" for f in ("curves", "groups", "hacking", "stability") for k in ("png", "svg")
    ]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*names, "report.md", "results.json"])
    text = (folder / "report.md").read_text()
    assert "4 runs in 2 arms: 3 finished, 1 killed. Steps reached: 2 to 4." in text
    assert table(text, "Settings that differ") == [
        ["setting", "reward=rule", "reward=static"],
        ["`reward._target_`", "RuleReward", "ModelReward"],
        ["`reward.train_model`", "not set", "false"],
        ["`reward.gate`", "not set", "none"],
    ]
    # Ends .7 and .8: half 12.706 * .0707 / sqrt(2) = .635; gains .2 and .3, the same.
    assert table(text, "Results")[1:] == [
        ["reward=rule", "2", "0.400 ± 0.000", "0.750 ± 0.635 (4)", "0.750 ± 0.635 (4)",
         "+0.250 ± 0.635", "0.20 -> 0.80", "-", "1 (3)", "10"],
        ["reward=static", "1/2", "0.400 ± 0.000", "0.700 (4)", "0.700 (4)", "+0.200",
         "0.20 -> 0.80", "0.90 -> 0.90", "1 (2)", "10"],
    ]  # fmt: skip
    assert table(text, "Runs")[4] == [
        "`3-d`", "reward=static", "1", "killed", "2 of 4", "0.400", "0.500 (2)", "0.500 (2)",
        "+0.100", "0.20 -> 0.40", "0.90 -> 0.90", "0", "-",
    ]  # fmt: skip
    assert [line[:4] for line in table(text, "Alarms")[1:]] == [
        ["`0-a`", "3", "gap", "hacking/gap"],
        ["`2-c`", "2", "gap", "hacking/gap"],
        ["`2-c`", "4", "gap", "hacking/gap"],
    ]
    assert "gap \\| 0.31 in step 3" in text
    curves = json.loads((folder / "results.json").read_text())["curves"]
    assert curves[VAL]["reward=static"] == {
        "steps": [0, 2, 4], "mean": [0.4, 0.5, 0.7], "low": [0.4, 0.5, 0.7],
        "high": [0.4, 0.5, 0.7], "runs": [2, 2, 1],
    }  # fmt: skip


def test_the_same_runs_give_the_same_bytes(write, report, tmp_path):
    everything(write)
    for out in ("one", "two"):
        assert report("runs", "--out", out)[0] == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_report_of_one_run(write, report, tmp_path):
    folder = write("1", alarms=[2])
    assert report(folder)[0] == 0
    assert sorted(p.name for p in (folder / "report").iterdir()) == [
        "curves.png", "curves.svg", "report.md", "results.json",
    ]  # fmt: skip
    text = (folder / "report" / "report.md").read_text()
    assert "Settings that differ" not in text
    assert "± half" not in text
    # The report lies in the run's folder and is no run.
    assert report(folder)[0] == 0


def test_figures_of_an_earlier_report_do_not_stay(write, report, tmp_path):
    everything(write)
    report("runs")
    (tmp_path / "runs" / "report" / "notes.txt").write_text("mine")
    report("runs/0-a", "--out", "runs/report")
    assert sorted(p.name for p in (tmp_path / "runs" / "report").iterdir()) == [
        "curves.png", "curves.svg", "notes.txt", "report.md", "results.json",
    ]  # fmt: skip


def test_runs_without_figures_still_have_a_report(write, report, tmp_path):
    write("1", rows=[], summary=False)
    assert report("runs")[0] == 0
    text = (tmp_path / "runs" / "report" / "report.md").read_text()
    assert "nothing has been measured yet" in text
    assert "1 run in 1 arm: 1 killed. Steps reached: 0." in text


def test_a_doubled_run_is_told(write, report, tmp_path):
    write("1")
    write("2")
    assert report("runs")[0] == 0
    text = (tmp_path / "runs" / "report" / "report.md").read_text()
    assert "`2` is left out: another run has its settings and its seed (0)" in text


def test_versions_of_the_code_are_told_apart(write, report, tmp_path):
    for seed, commit in enumerate(("a" * 40, "b" * 40, "b" * 40)):
        folder = write(str(seed), seed=seed)
        (folder / "environment.json").write_text(json.dumps({"commit": commit}))
    assert report("runs")[0] == 0
    text = (tmp_path / "runs" / "report" / "report.md").read_text()
    assert "different versions of the code: aaaaaaaaaa (1 run), bbbbbbbbbb (2 runs)." in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["empty"], "empty: no run here or below"),
        (["nowhere"], "nowhere: no such folder"),
        (["runs", "--by", "nothing.here"], "--by=nothing.here: no run has such a setting"),
        (["runs", "empty"], "--out: 2 folders are given"),
        (
            ["runs", "--out", "runs/1/config.yaml/x"],
            "--out=runs/1/config.yaml/x: cannot be written",
        ),
    ],
)
def test_errors_are_one_line(write, report, tmp_path, arguments, told):
    write("1")
    (tmp_path / "empty").mkdir()
    code, _, err = report(*arguments)
    assert code == 2
    assert err.startswith(f"cooper-report: error: {told}")
    assert err.count("\n") == 1


def test_no_folder_is_an_error(report):
    code, _, err = report()
    assert code == 2
    assert "FOLDER" in err


# A run's own figure


def test_alarms_have_room_of_their_own_above_the_step_axis():
    figure, axis = plt.subplots()
    axis.plot([0, 10], [0, 1])
    axis.set_ylim(0, 1)
    drawing.mark_alarms(axis, [([3, 5], "black", "^"), ([4], "red", "^")])
    first, second = (marks.get_offsets().tolist() for marks in axis.collections)
    assert [x for x, _ in first] == [3, 5]
    assert [x for x, _ in second] == [4]
    bottom = axis.get_ylim()[0]
    assert 0 > first[0][1] > second[0][1] > bottom
    assert min(axis.get_yticks()) == 0
    plt.close(figure)


def marks_in(path):
    """How many rows of marks a figure has: bands are no scatter plots."""
    return path.read_text().count('id="PathCollection_')


def test_training_dynamics_shows_alarms(write):
    plain, alarmed = write("1"), write("2", alarms=[3])
    for folder in (plain, alarmed):
        training_dynamics(RunFolder(folder))
    paths = [folder / "figures" / "training_dynamics.svg" for folder in (plain, alarmed)]
    assert [marks_in(path) for path in paths] == [0, 3]  # in each of the three panels
    assert ["alarm: gap" in path.read_text() for path in paths] == [False, True]


def test_arms_show_their_alarms_and_missing_runs(write, report, tmp_path):
    write("0", alarms=[3])
    write("1", reward=STATIC, alarms=[2])
    assert report("runs")[0] == 0
    figure = tmp_path / "runs" / "report" / "curves.svg"
    assert marks_in(figure) == 2 * 3  # arms by panels: held-out, reward, verified
    assert "dashed" not in figure.read_text()
    write("2", reward=STATIC, rows=ROWS[:3], seed=1, summary=False)
    assert report("runs")[0] == 0
    assert "dashed: not all runs of the arm" in figure.read_text()
