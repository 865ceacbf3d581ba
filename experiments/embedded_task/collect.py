"""Collect the sweep's runs into results.json, results.md and a figure.

python experiments/embedded_task/collect.py runs/embedded_task/sweep_<time>
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from cooper.run_folder import RunFolder

HERE = Path(__file__).parent
ARMS = ("rule", "static", "cooper")
COLOURS = {"rule": "#7F7F7F", "static": "#D55E00", "cooper": "#0072B2"}
VAL, TEST = "val/arithmetic", "val/arithmetic_test"
METRIC = "avg_at_8"
CURVES = {
    "avg_at_8": f"{VAL}/{METRIC}",
    "visible": f"{VAL}.visible/{METRIC}",
    "blind": f"{VAL}.blind/{METRIC}",
    "greedy": f"{VAL}/greedy",
    "reward": "reward/mean",
    "verified": "verifier/accuracy",
    "reward_model_accuracy": "reward_model/accuracy",
    "reward_model_auroc": "reward_model/auroc",
    "pairs": "pairs/built",
}


def read_run(folder: Path) -> dict[str, Any]:
    """The figures of one run: every curve as [step, value] pairs, test set at start and end."""
    rows = RunFolder(folder).read_metrics()
    summary = json.loads((folder / "summary.json").read_text())
    curves = {
        name: [[row["step"], round(row[key], 4)] for row in rows if row.get(key) is not None]
        for name, key in CURVES.items()
    }
    test = {
        group.lstrip(".") or "all": {
            at: round(summary["evaluation"][f"{TEST}{group}/{METRIC}"][at], 4)
            for at in ("start", "end")
        }
        for group in ("", ".visible", ".blind")
    }
    test["greedy"] = {
        at: round(summary["evaluation"][f"{TEST}/greedy"][at], 4) for at in ("start", "end")
    }
    facts = {k: summary[k] for k in ("status", "cpu_seconds", "stage_cpu_seconds", "steps")}
    return {**facts, "test": test, "curves": curves}


def window(curve: list[list[float]], first: int, last: int) -> float:
    """Mean of a curve over steps first..last."""
    values = [value for step, value in curve if first <= step <= last]
    return sum(values) / len(values) if values else float("nan")


def table(runs: dict[str, dict[str, Any]]) -> str:
    """The Markdown table, one row a run."""
    head = (
        "| seed | arm | test avg@8, start | end | visible, end | blind, end | greedy, start -> end "
        "| val avg@8, highest (step) | reward, steps 1-10 -> 41-50 | reward model AUROC, steps "
        "1-10 -> 41-50 | CPU s |\n|" + " --- |" * 11
    )
    lines = [head]
    for name, run in runs.items():
        seed, arm = name.split("/")
        test, curves = run["test"], run["curves"]
        step, best = max(curves["avg_at_8"], key=lambda point: point[1])
        auroc = curves["reward_model_auroc"]
        aurocs = f"{window(auroc, 1, 10):.2f} -> {window(auroc, 41, 50):.2f}" if auroc else "-"
        lines.append(
            f"| {seed} | {arm} | {test['all']['start']:.3f} | **{test['all']['end']:.3f}** "
            f"| {test['visible']['end']:.3f} | {test['blind']['end']:.3f} "
            f"| {test['greedy']['start']:.3f} -> {test['greedy']['end']:.3f} "
            f"| {best:.3f} ({step}) "
            f"| {window(curves['reward'], 1, 10):.2f} -> {window(curves['reward'], 41, 50):.2f} "
            f"| {aurocs} | {run['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def mean_curve(runs: list[dict[str, Any]], name: str, smooth: int = 1) -> tuple[list, list, list]:
    """Steps, mean over runs, and [lowest, highest] over runs."""
    per_run = []
    for run in runs:
        values = [value for _, value in run["curves"][name]]
        per_run.append(
            [sum(values[max(0, i + 1 - smooth) : i + 1]) / min(i + 1, smooth)
             for i in range(len(values))]
        )  # fmt: skip
    steps = [step for step, _ in runs[0]["curves"][name]]
    columns = list(zip(*per_run, strict=False))
    return (
        steps[: len(columns)],
        [sum(c) / len(c) for c in columns],
        [[min(c) for c in columns], [max(c) for c in columns]],
    )


def draw(runs: dict[str, dict[str, Any]]) -> None:
    """The paper's three curves, arms side by side: mean over seeds, band from lowest to highest."""
    with plt.rc_context({"font.size": 9, "svg.hashsalt": "cooper", "axes.grid": True,
                         "grid.alpha": 0.3, "axes.spines.top": False,
                         "axes.spines.right": False}):  # fmt: skip
        figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.6), layout="constrained")
        panels = (
            ("avg_at_8", "Held-out accuracy (avg@8)", 1, ARMS),
            ("reward", "What the policy is paid (mean of 5 steps)", 5, ("static", "cooper")),
            ("reward_model_auroc", "Reward model, AUROC (mean of 5)", 5,
             ("static", "cooper")),
        )  # fmt: skip
        for axis, (name, title, smooth, arms) in zip(axes, panels, strict=True):
            for arm in arms:
                group = [run for key, run in runs.items() if key.endswith(f"/{arm}")]
                steps, mean, (low, high) = mean_curve(group, name, smooth)
                axis.plot(steps, mean, color=COLOURS[arm], label=arm, linewidth=2)
                axis.fill_between(steps, low, high, color=COLOURS[arm], alpha=0.15, linewidth=0)
            axis.set_title(title)
            axis.set_xlabel("RL step")
            axis.set_ylim(0, 1.02)
            axis.legend(frameon=False)
        for kind in ("png", "svg"):
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(HERE / f"arms.{kind}", dpi=130, metadata=metadata)
        plt.close(figure)


def main() -> None:
    """Read the sweep named on the command line."""
    runs: dict[str, dict[str, Any]] = {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        found = re.search(r"reward=(\w+),seed=(\d+)$", folder.name)
        if found:
            runs[f"{found[2]}/{found[1]}"] = read_run(folder)
    order = sorted(runs, key=lambda key: (key.split("/")[0], ARMS.index(key.split("/")[1])))
    runs = {key: runs[key] for key in order}
    (HERE / "results.json").write_text(json.dumps(runs) + "\n")
    (HERE / "results.md").write_text(table(runs))
    draw(runs)
    print(table(runs))


if __name__ == "__main__":
    main()
