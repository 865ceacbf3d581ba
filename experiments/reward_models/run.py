"""Train `full` and `weak` reward models on the embedded task and write results.json.

``python experiments/reward_models/run.py FOLDER``: 3 seeds x 2, about 9 CPU minutes.

Runs that are there already are only collected. The oracle knows every answer style and nothing in
training reads it: AUROC against it, beside the one against the held-out labels, which share the
simulated judge's errors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from cooper.data.arithmetic import ArithmeticOracle
from cooper.data.labelled import read_labelled
from cooper.metrics import quality
from cooper.models import RewardModel

SEEDS = (100, 101, 102)
TRAININGS = ("full", "weak")


def train(training: str, seed: int, folder: Path) -> None:
    """Run the command, unless its summary is there."""
    if (folder / "summary.json").is_file():
        return
    command = [
        sys.executable,
        "-m",
        "cooper.cli.train_reward",
        f"reward_training={training}",
        f"seed={seed}",
        f"paths.run_dir={folder}",
        f"paths.cache_dir={folder.parent}/cache",
    ]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def collect(training: str, seed: int, folder: Path) -> dict:
    """The run's own figures, and the oracle's on the same completions."""
    summary = json.loads((folder / "summary.json").read_text())
    items = read_labelled(folder / "heldout.jsonl").items
    verdicts = ArithmeticOracle().verify(
        [item.completion for item in items],
        [item.reference for item in items],
        [item.question for item in items],
    )
    truth = [replace(item, label=v.correct) for item, v in zip(items, verdicts, strict=True)]
    oracle = quality(RewardModel.from_pretrained(folder / "reward_model"), truth)
    return {
        "reward_training": training,
        "seed": seed,
        "auroc": round(summary["heldout"]["auroc"], 4),
        "accuracy": round(summary["heldout"]["accuracy"], 4),
        "oracle_auroc": round(oracle["auroc"], 4),
        "oracle_accuracy": round(oracle["accuracy"], 4),
        "heldout": int(summary["heldout"]["examples"]),
        "cpu_seconds": summary["cpu_seconds"],
        "stage_cpu_seconds": summary["stage_cpu_seconds"],
    }


def main() -> None:
    """Train, collect, write."""
    root = Path(sys.argv[1]).resolve()
    rows = []
    for training in TRAININGS:
        for seed in SEEDS:
            folder = root / f"{training}-{seed}"
            train(training, seed, folder)
            rows.append(collect(training, seed, folder))
            print(rows[-1], flush=True)
    out = Path(__file__).with_name("results.json")
    out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
