"""The paper's three curves: test accuracy, reward and verified accuracy, reward model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from cooper.run_folder import RunFolder

matplotlib.use("agg")
from matplotlib import pyplot as plt

# Okabe-Ito: told apart by colour-blind readers too.
_BLUE, _ORANGE, _GREEN, _PINK, _GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"

Rows = Sequence[dict[str, Any]]


def series(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric; steps without it are left out."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [p[0] for p in points], [p[1] for p in points]


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values."""
    return [
        sum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))
    ]


def _plot(axis: Any, rows: Rows, key: str, label: str, colour: str, window: int = 1) -> None:
    steps, values = series(rows, key)
    if not steps:
        return
    if window > 1 and len(values) > window:
        axis.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        values = smoothed(values, window)
    marker = "o" if len(steps) < 40 and window == 1 else None
    axis.plot(steps, values, color=colour, label=label, linewidth=2, marker=marker, markersize=3.5)


def training_dynamics(folder: RunFolder, title: str = "") -> list[Path]:
    """Draw ``figures/training_dynamics.png`` and ``.svg`` from ``metrics.jsonl``.

    Args:
        folder: of a run, finished or not.
        title: above the panels.

    Returns:
        the files written; none when there are no metrics yet.
    """
    rows = folder.read_metrics()
    if not rows:
        return []
    window = 5 if len(rows) > 20 else 1
    with plt.rc_context({"font.size": 9, "svg.hashsalt": "cooper", "axes.grid": True,
                         "grid.alpha": 0.3, "axes.spines.top": False,
                         "axes.spines.right": False}):  # fmt: skip
        figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.6), layout="constrained")
        _accuracy(axes[0], rows)
        _plot(axes[1], rows, "reward/mean", "training reward", _ORANGE, window)
        _plot(axes[1], rows, "verifier/accuracy", "verified accuracy (decided)", _BLUE, window)
        axes[1].set_title("What the policy is paid, and what is verified")
        _plot(axes[2], rows, "reward_model/accuracy", "accuracy at 0.5", _GREEN, window)
        _plot(axes[2], rows, "reward_model/auroc", "AUROC", _PINK, window)
        axes[2].set_title("Reward model on this step's rollouts")
        for axis in axes:
            axis.set_xlabel("RL step")
            axis.set_ylim(0, 1.02)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(frameon=False, loc="best")
            else:
                axis.text(0.5, 0.5, "not measured in this run", transform=axis.transAxes,
                          ha="center", color=_GREY)  # fmt: skip
        if title:
            figure.suptitle(title, fontsize=11)
        folder.figures.mkdir(parents=True, exist_ok=True)
        paths = [folder.figures / f"training_dynamics.{kind}" for kind in ("png", "svg")]
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=130, metadata=metadata)
        plt.close(figure)
    return paths


def _accuracy(axis: Any, rows: Rows) -> None:
    """Held-out accuracy: the set that is evaluated most often, its groups, its greedy answers."""
    keys = sorted({k for row in rows for k in row if k.startswith("val/") and "/avg_at_" in k})
    sets = [k for k in keys if "." not in k.split("/")[1]]
    axis.set_title("Held-out accuracy")
    if not sets:
        return
    main = max(sets, key=lambda k: len(series(rows, k)[0]))
    name = main.split("/")[1]
    metric = main.split("/")[2].replace("_at_", "@")
    _plot(axis, rows, main, metric, _BLUE)
    _plot(axis, rows, f"val/{name}/greedy", "greedy", _GREY)
    colours = (_GREEN, _PINK, _ORANGE)
    groups = [k for k in keys if k.startswith(f"val/{name}.")]
    if len(groups) <= len(colours):
        for key, colour in zip(groups, colours, strict=False):
            _plot(axis, rows, key, f"{metric}, {key.split('/')[1].split('.', 1)[1]}", colour)
