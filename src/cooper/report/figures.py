"""The paper's three curves: test accuracy, reward and verified accuracy, reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from cooper.report import drawing
from cooper.report.drawing import BLUE, GREEN, GREY, MARKERS, ORANGE, PINK
from cooper.report.runs import Rows, series
from cooper.report.statistics import smoothed
from cooper.run_folder import RunFolder


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
    """Draw ``figures/training_dynamics.png`` and ``.svg`` from a run's folder.

    Args:
        folder: of a run, finished or not.
        title: above the panels.

    Returns:
        the files written; none when there are no metrics yet.
    """
    rows, alarms = folder.read_metrics(), folder.read_alarms()
    return draw_dynamics(rows, alarms, folder.figures, "training_dynamics", title)


def draw_dynamics(rows: Rows, alarms: Rows, folder: Path, name: str, title: str = "") -> list[Path]:
    """Draw one run's three curves, its alarms on the step axis.

    Args:
        rows: the steps' metrics.
        alarms: with ``step`` and ``name``.
        folder: to write to.
        name: of the files, without their ending.
        title: above the panels.

    Returns:
        the files written; none when there are no metrics.
    """
    if not rows:
        return []
    window = 5 if len(rows) > 20 else 1
    marks = _alarm_rows(alarms)
    with plt.rc_context(drawing.STYLE):
        height = 3.6 + (0.3 if marks else 0.0)
        figure, axes = plt.subplots(1, 3, figsize=(12.5, height), layout="constrained")
        _accuracy(axes[0], rows)
        _plot(axes[1], rows, "reward/mean", "training reward", ORANGE, window)
        _plot(axes[1], rows, "verifier/accuracy", "verified accuracy (decided)", BLUE, window)
        axes[1].set_title("What the policy is paid, and what is verified")
        _plot(axes[2], rows, "reward_model/accuracy", "accuracy at 0.5", GREEN, window)
        _plot(axes[2], rows, "reward_model/auroc", "AUROC", PINK, window)
        axes[2].set_title("Reward model on this step's rollouts")
        for axis in axes:
            drawing.step_axis(axis)
            axis.set_ylim(0, 1.02)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(frameon=False, loc="best")
            else:
                axis.text(0.5, 0.5, "not measured in this run", transform=axis.transAxes,
                          ha="center", color=GREY)  # fmt: skip
            drawing.mark_alarms(axis, list(marks.values()))
        if marks:
            handles = [
                Line2D([], [], color=colour, marker=marker, linestyle="", label=f"alarm: {rule}")
                for rule, (_, colour, marker) in marks.items()
            ]
            figure.legend(
                handles=handles, loc="outside lower center", ncols=len(handles), frameon=False
            )
        if title:
            figure.suptitle(title, fontsize=11)
        return drawing.save(figure, folder, name)


def _alarm_rows(alarms: Rows) -> dict[str, tuple[list[int], str, str]]:
    """Steps, colour and marker of each rule that gave an alarm."""
    rules = list(dict.fromkeys(str(alarm.get("name", "")) for alarm in alarms))
    return {
        rule: (
            [alarm["step"] for alarm in alarms if str(alarm.get("name", "")) == rule],
            "black",
            MARKERS[(number + 2) % len(MARKERS)],
        )
        for number, rule in enumerate(rules)
    }


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
    _plot(axis, rows, main, metric, BLUE)
    _plot(axis, rows, f"val/{name}/greedy", "greedy", GREY)
    colours = (GREEN, PINK, ORANGE)
    groups = [k for k in keys if k.startswith(f"val/{name}.")]
    if len(groups) <= len(colours):
        for key, colour in zip(groups, colours, strict=False):
            _plot(axis, rows, key, f"{metric}, {key.split('/')[1].split('.', 1)[1]}", colour)
