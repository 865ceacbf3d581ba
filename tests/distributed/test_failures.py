"""What goes wrong in one process ends all of them, and is told once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_resume import assert_same_end, ended, processes_of, until

from conftest import ENVIRONMENT, HANG, Place, metrics


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_an_error_in_one_process_is_on_the_screen(place: Place, strategy: str) -> None:
    name = f"raise_{strategy}"
    done = place.train(name, strategy, "+callbacks.raise._target_=parts.Raise")
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: the last process has had enough") == 1
    assert "process 1 of 2: " in done.stderr
    # Nothing came in front of it that only follows from it.
    assert "Connection" not in done.stderr
    assert (place / name / "checkpoints" / "000002" / "trainer.pt").is_file()


def test_a_bad_setting_is_one_line(place: Place) -> None:
    done = place.train("bad", "zero2", "data.problems_per_step=5")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("cooper-train: error: data.problems_per_step=5: each of 2 processes")
    assert not (place / "bad").exists()


def test_a_checkpoint_of_another_model_or_a_broken_one_is_one_line(plain: Place) -> None:
    for name, mend in (("larger", "hidden"), ("broken", "trainer.pt"), ("half", "model")):
        shutil.copytree(plain / "zero3", plain / name)
        (plain / name / "summary.json").unlink()
        last = plain / name / "checkpoints" / "000008"
        shutil.rmtree(last)
        kept = plain / name / "checkpoints" / "000006"
        overrides = ["ckpt_path=last"]
        if name == "larger":
            overrides += ["warm_start.model.hidden_size=48", "warm_start.steps=2"]
        elif name == "broken":
            whole = (kept / "trainer.pt").read_bytes()
            (kept / "trainer.pt").write_bytes(whole[: len(whole) // 2])
        else:
            weights = kept / "policy" / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:1000])
        done = plain.train(name, "zero3", *overrides)
        assert done.returncode == 2, done.stderr
        lines = [line for line in done.stderr.splitlines() if line]
        assert len(lines) == 1, lines
        assert str(Path(name) / "checkpoints" / "000006") in lines[0], (mend, lines)


def test_sigterm_saves_once_and_the_run_goes_on(plain: Place) -> None:
    process = plain.start(*plain.given("stopped", "zero2"))
    until(plain / "stopped" / "checkpoints" / "000002" / "trainer.pt", process)
    ranks = processes_of(process.pid)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 143
    assert err.count("SIGTERM: finishing this step, then a checkpoint") == 1
    assert ended(ranks)
    done = plain.train("stopped", "zero2", "ckpt_path=last")
    assert done.returncode == 0, done.stderr
    assert_same_end(plain / "zero2", plain / "stopped")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_torchrun_and_slurm_start_the_processes(plain: Place) -> None:
    short = ("trainer.max_steps=2",)
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
        "--master-addr=127.0.0.1", f"--master-port={free_port()}",
    ]  # fmt: skip
    given = plain.given("torchrun", "zero2", *short)
    process = plain.start(*given, by=torchrun)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 0, err
    assert out.count("run folder: torchrun") == 1

    # Two "machines" with a process each, as srun starts them.
    node = {
        "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "cooper", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1",
        "SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    given = plain.given("slurm", "zero2", "trainer.devices=1", "trainer.num_nodes=2", *short)
    tasks = [
        plain.start(*given, **node, SLURM_PROCID=str(rank), SLURM_NODEID=str(rank))
        for rank in (0, 1)
    ]
    for task in tasks:
        _, err = task.communicate(timeout=HANG)
        assert task.returncode == 0, err
    for name in ("torchrun", "slurm"):
        assert len(metrics(plain / name)) == 3
        rows = zip(metrics(plain / name), metrics(plain / "zero2"), strict=False)
        for row, other in list(rows)[:2]:
            assert row == other

    # What was started must be what is asked for.
    given = plain.given("bad", "zero2", "trainer.devices=4", "data.problems_per_step=4")
    process = plain.start(*given, **{**node, "SLURM_NTASKS": "2"}, SLURM_PROCID="0")
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 2
    assert "4 processes are asked for, and 2 were started" in err


def test_jobs_of_a_sweep_have_processes_of_their_own(plain: Place) -> None:
    command = [sys.executable, "-m", "cooper.cli.train", "-m"]
    given = [o for o in plain.given("", "ddp", "trainer.max_steps=2") if "run_dir" not in o]
    done = subprocess.run(
        [*command, *given, "seed=0,1", f"hydra.sweep.dir={plain / 'sweep'}"],
        cwd=plain.folder, env={**os.environ, **ENVIRONMENT}, timeout=HANG, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number in (0, 1):
        assert len(metrics(plain / "sweep" / f"{number}-seed={number}")) == 3
    plain_rows = metrics(plain / "ddp")[:2]
    assert metrics(plain / "sweep" / "0-seed=0")[:2] == plain_rows


def test_evaluation_is_that_of_one_process(plain: Place) -> None:
    for row, other in ((metrics(plain / n)[0], metrics(plain / "single")[0]) for n in ("zero3",)):
        figures = {k: v for k, v in row.items() if k.startswith("val/")}
        assert figures
        assert figures == {k: other[k] for k in figures}


def test_a_plan_of_many_gpus_starts_no_processes(place: Place) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "cooper.cli.plan", "experiment=none", "data=jsonl",
            "data.train=x", "data.val=x", "policy=hf", f"policy.path={place / 'single' / 'policy'}",
            "reward=rule", "trainer=gpu", "plan.gpu=H100", "strategy=zero3", "trainer.devices=8",
            "sampling.max_new_tokens=16", "prompt.max_tokens=16",
        ],
        cwd=place.folder, env={**os.environ, **ENVIRONMENT}, timeout=HANG, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Memory of each of 8 GPUs, GiB (zero3, bf16-mixed)") == 1
