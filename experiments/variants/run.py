"""Run every variant on every seed, each as a process of its own; what is finished is skipped.

python experiments/variants/run.py [--runs runs/variants] [--seeds 100,101,102] [--only NAME,...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

# Each differs from the main job, `cooper-train` (reward=cooper, no gate, plain pairs), in what it
# says here and in nothing else.
VARIANTS: dict[str, tuple[str, ...]] = {
    "rule": ("reward=rule",),
    "static": ("reward=static",),
    "cooper": (),
    "hybrid": ("reward=hybrid",),
    "gate rule": ("reward.gate=rule",),
    "gate model": ("reward.gate=model",),
    "gate both": ("reward.gate=both",),
    "average": ("reward_objective.ema_decay=0.9",),
    "replay of pairs": ("reward_objective.replay_pairs=24",),
    "replay of labels with pairs": ("reward_objective=pairwise_replay",),
    "replay of labels alone": ("reward_objective=replay",),
    "centring": ("reward_objective.centring=0.01",),
    "BCE and pairs": ("reward_objective=pairwise_bce",),
}


def finished(folder: Path) -> bool:
    """Whether a run has come to its end."""
    summary = folder / "summary.json"
    return summary.is_file() and json.loads(summary.read_text())["status"] == "finished"


def main() -> int:
    """Run what is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/variants"))
    parser.add_argument("--seeds", default="100,101,102")
    parser.add_argument("--only", default=",".join(VARIANTS))
    given = parser.parse_args()
    failed = []
    for seed in given.seeds.split(","):
        for name in given.only.split(","):
            folder = given.runs / f"{name.replace(' ', '_')}-{seed}"
            if finished(folder):
                continue
            settings = [*VARIANTS[name], f"seed={seed}", f"paths.run_dir={folder}", "quiet=true"]
            if any((folder / "checkpoints").glob("[0-9]*")):
                settings.append("ckpt_path=last")
            command = [sys.executable, "-m", "cooper.cli.train", *settings]
            print(name, seed, flush=True)
            if subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode:
                failed.append(f"{name}, seed {seed}")
    print("failed:" if failed else "all finished", *failed, sep="\n  ")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
