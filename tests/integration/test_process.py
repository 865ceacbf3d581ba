"""The command as a process: Ctrl-C, sweeps, losses that are not finite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_runs import SMALL

LONG = 300  # seconds; a generous bound against hanging, nothing is timed


def start(arguments, folder, stage_cache):
    command = [sys.executable, "-m", "cooper.cli.train", *arguments]
    command.append(f"paths.cache_dir={stage_cache}")
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def children(pid):
    """Processes of the session that a process leads."""
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(pid)], capture_output=True, text=True)
    return found.stdout.split()


@pytest.mark.skipif(os.name != "posix", reason="a process group and SIGINT exist on POSIX alone")
def test_ctrl_c_saves_and_exits_130(tmp_path, stage_cache):
    many = [o for o in SMALL if not o.startswith("trainer.max_steps")]
    run = tmp_path / "r"
    arguments = [*many, "trainer.max_steps=5000", "paths.run_dir=r", "verifier=math"]
    process = start(arguments, tmp_path, stage_cache)
    end = time.monotonic() + LONG
    while time.monotonic() < end and process.poll() is None:
        metrics = run / "metrics.jsonl"
        if metrics.is_file() and len(metrics.read_text().splitlines()) > 2:
            break
        time.sleep(0.2)
    # As a terminal does: the signal goes to every process of the group.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 130, err
    assert "Ctrl-C" in err
    assert "Traceback" not in err
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (run / "checkpoints" / f"{steps[-1]:06d}" / "trainer.pt").is_file()
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert children(process.pid) == []


def test_sweep_of_two_by_two(tmp_path, stage_cache):
    arguments = ["-m", *SMALL, "reward=rule,static", "trainer.max_skips=5,0"]
    process = start(arguments, tmp_path, stage_cache)
    out, err = process.communicate(timeout=2 * LONG)
    assert process.returncode == 2, err
    assert "2 of 4 jobs failed" in err
    assert err.count("trainer.max_skips=0: give 1 or more") == 2
    assert "Traceback" not in err
    (sweep,) = (tmp_path / "runs" / "embedded_task").glob("sweep_*")
    jobs = sorted(folder for folder in sweep.iterdir() if folder.is_dir())
    done = [folder.name for folder in jobs]
    assert done == ["0-reward=rule,trainer.max_skips=5", "2-reward=static,trainer.max_skips=5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    for folder in jobs:
        assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    assert "failed (2)" in out


def test_sigterm_to_a_sweep_saves_its_job_and_starts_no_other(tmp_path, stage_cache):
    many = [o for o in SMALL if not o.startswith("trainer.max_steps")]
    arguments = ["-m", *many, "trainer.max_steps=5000", "reward=rule", "seed=0,1"]
    process = start(arguments, tmp_path, stage_cache)
    runs = tmp_path / "runs" / "embedded_task"
    end = time.monotonic() + LONG
    while time.monotonic() < end and process.poll() is None:
        metrics = list(runs.glob("sweep_*/0-*/metrics.jsonl"))
        if metrics and len(metrics[0].read_text().splitlines()) > 2:
            break
        time.sleep(0.2)
    try:
        process.terminate()  # as a scheduler may: this process alone
        _, err = process.communicate(timeout=60)  # the job would run for an hour
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 143, err
    assert "SIGTERM: finishing this step" in err
    assert "Traceback" not in err
    (job,) = (path for path in runs.glob("sweep_*/*") if path.is_dir())
    assert json.loads((job / "summary.json").read_text())["status"] == "interrupted"
    assert len(list((job / "checkpoints").glob("*/trainer.pt"))) == 1
    assert children(process.pid) == []


NAN_REWARD = """
import torch
from cooper.rewards import RuleReward, Rewards

class Broken(RuleReward):
    def __call__(self, verdicts, scores, problem_of):
        good = super().__call__(verdicts, scores, problem_of)
        return Rewards(good.values + float("nan"), good.keep)
"""


def test_non_finite_losses_are_skipped_then_stop_the_run(cli, tmp_path, monkeypatch):
    (tmp_path / "broken_reward.py").write_text(NAN_REWARD)
    (tmp_path / "mine" / "reward").mkdir(parents=True)
    (tmp_path / "mine" / "reward" / "broken.yaml").write_text("_target_: broken_reward.Broken\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = cli(
        "--config-dir=mine", "reward=broken", "paths.run_dir=r", "trainer.max_steps=9",
        "trainer.max_skips=3", "rollouts.keep=0",
    )  # fmt: skip
    assert result.code == 2
    assert "3 steps in a row (trainer.max_skips=3)" in result.err
    assert len([line for line in result.err.splitlines() if line]) == 1
    # Two steps were skipped and logged, the third one ended the run and left its rollouts.
    rows = [
        json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row.get("policy/skipped_steps") for row in rows] == [None, 1, 2]
    assert [f.name for f in (tmp_path / "r" / "rollouts").iterdir()] == ["000003.jsonl.gz"]
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "failed"
