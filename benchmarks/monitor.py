"""CPU seconds of the reward-hacking monitor beside those of the steps that it watches.

    python benchmarks/monitor.py --cache CACHE_DIR

Runs the embedded task for 40 steps with the monitor's default settings, in this process, and takes
`time.process_time` around the monitor's hooks and around the training steps. Measured apart: steps
in which the reward model is scored on the fixed sets, and the others. "amortised" is what a long
run pays a step: the others, plus one `every`-th of what a measurement adds; the start is its own
line, since it is paid once. Writes monitor.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from cooper.callbacks import Monitor
from cooper.cli.train import main as cooper_train
from cooper.module import CooperModule
from cooper.monitoring import MonitorSettings

HERE = Path(__file__).parent
STEPS = 40
REWARDS = ("cooper", "static", "rule")


def timed(owner: type, name: str, seconds: list[float]) -> Any:
    """Note the CPU seconds of each call of a method; returns it as it was."""
    before = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return before(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - began)

    setattr(owner, name, call)
    return before


def measure(reward: str, cache: str) -> dict[str, float]:
    """One run."""
    seconds: dict[str, list[float]] = {"start": [], "monitor": [], "step": []}
    hooks = ((Monitor, "on_train_start", "start"), (Monitor, "on_step", "monitor"))
    before = [(o, n, timed(o, n, seconds[key])) for o, n, key in hooks]
    before.append(
        (CooperModule, "training_step", timed(CooperModule, "training_step", seconds["step"]))
    )
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = [
            "cooper-train", f"reward={reward}", f"trainer.max_steps={STEPS}", "data.test=null",
            f"evaluation.every={STEPS}", "quiet=true", "logger=none", "seed=100",
            f"paths.run_dir={folder}/run", f"paths.cache_dir={cache}",
        ]  # fmt: skip
        try:
            cooper_train()
        except SystemExit as ended:
            if ended.code:
                raise
    for owner, name, was in before:
        setattr(owner, name, was)
    every = MonitorSettings().every
    steps = list(enumerate(seconds["monitor"], 1))
    with_sets = mean(s for step, s in steps if step % every == 0)
    without = mean(s for step, s in steps if step % every and step > 1)
    step, amortised = mean(seconds["step"]), without + (with_sets - without) / every
    return {
        "step_seconds": round(step, 4),
        "monitor_seconds_plain": round(without, 5),
        "monitor_seconds_with_fixed_sets": round(with_sets, 5),
        "monitor_seconds_start": round(seconds["start"][0], 5),
        "overhead_plain": round(without / step, 5),
        "overhead_amortised": round(amortised / step, 5),
        "overhead_of_the_run": round(
            (seconds["start"][0] + sum(seconds["monitor"])) / sum(seconds["step"]), 5
        ),
    }


def main() -> None:
    """Measure the three rewards."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", default="~/.cache/cooper", help="paths.cache_dir of the runs")
    cache = parser.parse_args().cache
    result = {
        "steps": STEPS,
        "machine": platform.processor() or platform.machine(),
        "settings": "defaults of conf/monitor/default.yaml",
        **{reward: measure(reward, cache) for reward in REWARDS},
    }
    text = json.dumps(result, indent=1)
    print(text)
    (HERE / "monitor.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
