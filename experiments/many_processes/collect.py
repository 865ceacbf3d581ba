"""Collect runs of one seed under several strategies into results.json and a figure.

python experiments/many_processes/collect.py FOLDER  # of run folders named after the strategies
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from cooper.run_folder import RunFolder

HERE = Path(__file__).parent
RUNS = {
    "single": ("#000000", "-"),
    "ddp": ("#0072B2", "--"),
    "zero2": ("#D55E00", "-"),
    "zero3": ("#009E73", "--"),
    "fsdp2": ("#CC79A7", ":"),
}
CURVES = {
    "held-out avg@8": "val/arithmetic/avg_at_8",
    "training reward": "reward/mean",
    "reward model: AUROC": "reward_model/auroc",
}


def read_run(folder: Path) -> dict[str, Any]:
    """Every curve as [step, value] pairs, and the test set at the end."""
    rows = RunFolder(folder).read_metrics()
    summary = json.loads((folder / "summary.json").read_text())
    test = summary["evaluation"]["val/arithmetic_test/avg_at_8"]
    return {
        "test": {at: round(test[at], 4) for at in ("start", "end")},
        "curves": {
            name: [[row["step"], round(row[key], 5)] for row in rows if row.get(key) is not None]
            for name, key in CURVES.items()
        },
    }


def apart(one: dict[str, Any], other: dict[str, Any], name: str, value: float) -> int | None:
    """The first step at which two runs' curves are further apart than a value."""
    pairs = zip(one["curves"][name], other["curves"][name], strict=True)
    return next((a[0] for a, b in pairs if abs(a[1] - b[1]) > value), None)


def main(root: Path) -> None:
    """Write both."""
    runs = {name: read_run(root / name) for name in RUNS}
    for name, run in runs.items():
        run["reward first differs by 0.001 at step"] = apart(
            runs["single"], run, "training reward", 0.001
        )
        print(name, run["test"], run["reward first differs by 0.001 at step"])
    (HERE / "results.json").write_text(json.dumps(runs, indent=1))
    figure, axes = plt.subplots(1, len(CURVES), figsize=(12, 3.4))
    for axis, curve in zip(axes, CURVES, strict=True):
        for name, (colour, style) in RUNS.items():
            points = runs[name]["curves"][curve]
            axis.plot(*zip(*points, strict=True), color=colour, linestyle=style, label=name)
        axis.set_title(curve)
        axis.set_xlabel("RL step")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "curves.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
