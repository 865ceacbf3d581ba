"""Runs of the real command, in this process and small enough to take seconds."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from cooper.cli.errors import guarded
from cooper.cli.train import run as cooper_train

# The embedded task with everything made small; stages are shared by all tests of a session.
SMALL = (
    "quiet=true",
    "trainer.max_steps=3",
    "data.problems_per_step=6",
    "group_size=4",
    "data.train.size=400",
    "data.val.arithmetic.size=8",
    "data.test=null",
    "evaluation.samples=2",
    "warm_start.model.hidden_size=48",
    "warm_start.model.num_layers=2",
    "warm_start.model.mlp_size=128",
    "warm_start.steps=200",
    "warm_start.batch_size=64",
    "warm_start.optimizer.lr=6e-3",
    "annotation.num_problems=128",
    "reward_training.steps=30",
    "logger=none",
)


@dataclass
class Result:
    """What one command did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def stage_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of the stages for the whole session."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys, stage_cache):
    """``cli("reward=rule")``: the embedded task, small; ``cli(..., small=False)``: as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*overrides: str, small: bool = True) -> Result:
        # Hydra takes its flags in front of the overrides.
        flags = [o for o in overrides if o.startswith("-")]
        rest = [o for o in overrides if not o.startswith("-")]
        small_ones = SMALL if small else ()
        given = [*flags, *small_ones, f"paths.cache_dir={stage_cache}", *rest]
        monkeypatch.setattr(sys, "argv", ["cooper-train", *given])
        GlobalHydra.instance().clear()
        code = guarded("cooper-train", cooper_train)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def metrics_of(folder: Path) -> list[dict]:
    """The metrics of a run without the seconds, which differ between equal runs."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
