"""A run small enough to take seconds, and what is read from its folder."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

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


def metrics_of(folder: Path) -> list[dict]:
    """The metrics of a run without the seconds, which differ between equal runs."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def rollouts_of(folder: Path, step: int) -> list[dict]:
    """The kept rollouts of a step."""
    text = gzip.decompress((folder / "rollouts" / f"{step:06d}.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]
