"""Runs of two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# Small, with accumulation, clipping, a KL, and a step without a pair for every process.
SMALL = (
    "quiet=true", "logger=none", "data.problems_per_step=4", "group_size=4",
    "data.train.size=400", "data.val.arithmetic.size=4", "data.test=null",
    "evaluation.samples=2", "evaluation.every=9", "warm_start.model.hidden_size=32",
    "warm_start.model.num_layers=2", "warm_start.model.mlp_size=64", "warm_start.steps=120",
    "warm_start.batch_size=64", "warm_start.optimizer.lr=6e-3", "annotation.num_problems=64",
    "reward_training.steps=20", "algorithm.kl_coef=0.1", "algorithm.micro_batch_tokens=96",
    "reward_objective.micro_batch_tokens=160", "policy_optimizer.clip_norm=0.5",
    "reward_model_optimizer.clip_norm=0.5", "policy_optimizer.lr=5e-4",
    "reward_model_optimizer.lr=1e-3", "policy_optimizer.warmup_steps=2",
    "reward_model_optimizer.warmup_steps=2", "trainer.accelerator=cpu",
    "checkpoints.every=2", "checkpoints.keep_last=0", "trainer.max_steps=8",
)  # fmt: skip
# Models this small would otherwise stay whole under ZeRO-3, and hide its faults.
REALLY = tuple(
    f"+strategy.zero_optimization.stage3_{name}=0"
    for name in (
        "param_persistence_threshold", "max_live_parameters", "max_reuse_distance",
        "prefetch_bucket_size",
    )
)  # fmt: skip
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2")
HANG = 900  # seconds; five times what the longest takes on a busy machine
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}


Process = subprocess.Popen[str]


class Place:
    """A folder of runs that share their stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        """A run's folder."""
        return self.folder / name

    def given(self, name: str, strategy: str | None, *overrides: str) -> list[str]:
        """Settings of a run of two processes; without a strategy, of one."""
        given = [*SMALL, f"paths.cache_dir={self.folder}/stages", f"paths.run_dir={name}"]
        if strategy is not None:
            given += [f"strategy={strategy}", "trainer.devices=2"]
            given += REALLY if "zero3" in strategy else ()
        return [*given, *overrides]

    def start(self, *overrides: str, by: Sequence[str] = (), **environment: str) -> Process:
        """Start ``cooper-train``, by Python or by what starts Python."""
        return subprocess.Popen(
            [*(by or [sys.executable]), "-m", "cooper.cli.train", *overrides],
            cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **ENVIRONMENT, **environment},
        )  # fmt: skip

    def train(
        self, name: str, strategy: str | None, *overrides: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``cooper-train`` to its end."""
        process = self.start(*self.given(name, strategy, *overrides))
        out, err = process.communicate(timeout=HANG)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def jobs(self, jobs: Sequence[tuple[str, Sequence[str]]], processes: int) -> None:
        """Run jobs one after another in the same processes."""
        listed = self.folder / f"jobs_{len(list(self.folder.glob('jobs_*')))}.json"
        listed.write_text(json.dumps([(program, list(given)) for program, given in jobs]))
        worker = Path(__file__).with_name("worker.py")
        done = subprocess.run(
            [sys.executable, str(worker), str(listed), str(processes)],
            cwd=self.folder, env={**os.environ, **ENVIRONMENT, "PYTHONPATH": "."},
            timeout=HANG, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where the runs are; the stages before RL are built by the run of one process."""
    made = Place(tmp_path_factory.mktemp("runs"))
    (made.folder / "parts.py").write_text(Path(__file__).with_name("parts.py").read_text())
    done = made.train("single", None)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="session")
def plain(place: Place) -> Place:
    """The same run under every strategy."""
    place.jobs([("train", place.given(name, name)) for name in STRATEGIES], 2)
    return place


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of a trained model."""
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def metrics(run: Path) -> list[dict[str, float]]:
    """Of each step, without the seconds and the evaluation that a first half ended with."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows[1:-1]:
        for key in [key for key in row if key.startswith("val/")]:
            del row[key]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def assert_same_learning(
    one: Path, two: Path, models: Sequence[str] = ("policy", "reward_model")
) -> None:
    """The metrics and the models of two runs agree, up to the order of sums."""
    alone, both = metrics(one), metrics(two)
    assert len(alone) == len(both)
    for row, other in zip(alone, both, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            expected = value if value is None else pytest.approx(value, rel=1e-3, abs=5e-5)
            assert other[key] == expected, (key, row["step"])
    for model in models:
        first, second = weights(one / model), weights(two / model)
        assert first.keys() == second.keys()
        assert max(float((first[k] - second[k]).abs().max()) for k in first) < 5e-5
