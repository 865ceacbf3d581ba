"""Run the study: every arm on every seed, each as a process of its own.

    python experiments/reward_hacking/run.py            # then collect.py

What is finished is skipped, what was killed goes on from its last checkpoint, and a job that fails
does not stop the others: it is named at the end, and collect.py shows it as failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Settings were fixed in study.md before the first of these runs.
_REPLAY = ("reward.gate=both", "reward_objective=pairwise_replay")
ARMS: dict[str, tuple[str, ...]] = {
    "rule": ("reward=rule",),
    "static, weak": ("reward=static", "reward_training=weak"),
    "cooper, weak": ("reward=cooper", "reward_training=weak"),
    "cooper+, weak": ("reward=cooper", *_REPLAY, "reward_training=weak"),
    "replay only, weak": (
        "reward=cooper", "reward.gate=both", "reward_objective=replay", "reward_training=weak",
    ),
    "hybrid+, weak": ("reward=hybrid", *_REPLAY, "reward_training=weak"),
    "static, full": ("reward=static", "reward_training=full"),
    "cooper, full": ("reward=cooper", "reward_training=full"),
    "hybrid+, full": ("reward=hybrid", *_REPLAY, "reward_training=full"),
}  # fmt: skip
# Arms that build a stage which others take from the cache: run first, one for each seed.
_BUILDERS = ("static, weak", "static, full")


def folder_of(runs: Path, arm: str, seed: str) -> Path:
    """Where a job's run stands."""
    return runs / f"{arm.replace(', ', '-').replace(' ', '_')}-{seed}"


def finished(folder: Path) -> bool:
    """Whether a run has come to its end."""
    summary = folder / "summary.json"
    return summary.is_file() and json.loads(summary.read_text())["status"] == "finished"


def run(folder: Path, arm: str, seed: str) -> str:
    """Run one job, or what is left of it; its output goes to ``<folder>.log``.

    Returns:
        finished, skipped or failed.
    """
    if finished(folder):
        return "skipped"
    settings = ["experiment=reward_hacking", *ARMS[arm], f"seed={seed}", f"paths.run_dir={folder}"]
    if any((folder / "checkpoints").glob("[0-9]*")):
        settings.append("ckpt_path=last")
    elif folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.{time.time_ns()}"))  # ended before any
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.log").open("a") as log:
        code = subprocess.run(
            [sys.executable, "-m", "cooper.cli.train", *settings],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT,
            check=False,
        ).returncode  # fmt: skip
    return "failed" if code else "finished"


def main() -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/reward_hacking"))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at the same time")
    given = parser.parse_args()
    seeds = given.seeds.split(",")
    builders = [arm for arm in _BUILDERS if arm in ARMS]
    order = [(arm, seed) for arm in builders for seed in seeds]
    order += [(arm, seed) for seed in seeds for arm in ARMS if arm not in builders]
    failed, began = [], time.monotonic()
    left = sum(not finished(folder_of(given.runs, *job)) for job in order)
    print(f"{len(order)} runs, {len(order) - left} of them finished before", flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        results = pool.map(lambda job: run(folder_of(given.runs, *job), *job), order)
        done = 0
        for (arm, seed), result in zip(order, results, strict=True):
            if result == "skipped":
                continue
            done += 1
            passed = time.monotonic() - began
            rest = (left - done) * passed / done / 60
            print(f"{arm}, seed {seed}: {result}; {done}/{left}, {rest:.0f} min left", flush=True)
            if result == "failed":
                failed.append(f"{folder_of(given.runs, arm, seed)}.log")
    print("failed, see" if failed else "all finished", *failed, sep="\n  ")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
