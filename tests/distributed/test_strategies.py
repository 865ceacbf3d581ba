"""Two processes compute what one does, whatever the strategy, and go on where they were stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

# Small, with accumulation, clipping, a KL, and a step without a pair for every process.
SETTINGS = (
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
STRATEGIES: dict[str, tuple[str, ...]] = {
    "ddp": (), "zero1": (), "zero2": (), "zero3": REALLY, "zero2_offload": (),
    "zero3_offload": REALLY, "fsdp2": (),
}  # fmt: skip
HANG = 600  # seconds; a run takes about twenty


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cooper.cli.train", *SETTINGS, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}
    return subprocess.run(
        command, cwd=folder, env=environment, timeout=HANG, check=False, capture_output=True,
        text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs are; the stages are built once, by the run of one process."""
    folder = tmp_path_factory.mktemp("runs")
    done = run(folder, f"paths.cache_dir={folder}/stages", "paths.run_dir=single")
    assert done.returncode == 0, done.stderr
    return folder


def two(place: Path, strategy: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return run(
        place, f"paths.cache_dir={place}/stages", f"strategy={strategy}", "trainer.devices=2",
        *STRATEGIES[strategy], *overrides,
    )  # fmt: skip


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / name / "model.safetensors")


def metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_learn_as_one_and_go_on_to_the_bit(place: Path, strategy: str) -> None:
    done = two(place, strategy, f"paths.run_dir={strategy}")
    assert done.returncode == 0, done.stderr
    alone, both = metrics(place / "single"), metrics(place / strategy)
    assert len(alone) == len(both) == 9
    # In some step there is one pair at most, so that a process has none.
    assert min(row["pairs/built"] for row in alone[1:]) < 2
    for one, other in zip(alone, both, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == pytest.approx(value, rel=1e-3, abs=5e-5), (key, one["step"])
    for name in ("policy", "reward_model"):
        expected, got = weights(place / "single", name), weights(place / strategy, name)
        assert expected.keys() == got.keys()
        start = weights(place / "single" / "checkpoints" / "000002", name)
        moved = max(float((expected[k] - start[k]).abs().max()) for k in expected)
        apart = max(float((expected[k] - got[k]).abs().max()) for k in expected)
        assert apart < 5e-5 < moved / 20
    if strategy not in ("ddp", "zero2", "zero3", "fsdp2"):
        return
    again = f"paths.run_dir={strategy}_again"
    assert two(place, strategy, again, "trainer.max_steps=4").returncode == 0
    resumed = two(place, strategy, again, "ckpt_path=last")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("policy", "reward_model"):
        first, second = (
            (place / folder / name / "model.safetensors").read_bytes()
            for folder in (strategy, f"{strategy}_again")
        )
        assert first == second


def test_a_setting_that_two_processes_cannot_have_is_one_line(place: Path) -> None:
    cases = {
        "data.problems_per_step=5": ["data.problems_per_step=5", "give a multiple of 2"],
        "trainer.devices=3": ["trainer.devices=3", "give a multiple of 3"],
        "reward_objective.ema_decay=0.9": ["reward_objective.ema_decay=0.9", "strategy=ddp"],
    }
    for override, parts in cases.items():
        done = two(place, "zero2", "paths.run_dir=bad", override)
        assert done.returncode == 2, override
        lines = [line for line in done.stderr.splitlines() if "cooper-train" in line]
        assert len(lines) == 1
        assert all(part in lines[0] for part in parts), lines
    done = run(place, "paths.run_dir=bad", "trainer.devices=2")
    assert done.returncode == 2
    assert "trainer.devices=2" in done.stderr
    assert "choose ddp, zero1, zero2, zero3 or fsdp2" in done.stderr
    assert not (place / "bad").exists()
