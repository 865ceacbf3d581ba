"""Curves of several arms: a panel for each quantity, mean and band over the runs of an arm."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from cooper.report import drawing
from cooper.report.arms import Arm
from cooper.report.runs import Run, series
from cooper.report.statistics import Curve, average, smoothed

WINDOW = 5  # steps of the moving mean
_WIDTH = 4.15  # inches of a panel; a line of a legend holds about 14 characters an inch
_LINE = 0.19  # inches of height of a legend's line
_SMOOTH_FROM = 20  # steps; shorter runs are drawn as they are


@dataclass(frozen=True)
class Panel:
    """One quantity.

    Attributes:
        key: of the metric.
        title: above the panel.
        share: whether the axis goes from 0 to 1; else as far as the curves do.
        evaluated: now and then, so that points are marked and nothing is smoothed.
        least: of the axis to show, so that noise does not look like change; for what ends at 1.
    """

    key: str
    title: str
    share: bool = True
    evaluated: bool = False
    least: float = 0.0


CURVES = (
    Panel("reward/mean", "Training reward"),
    Panel("verifier/accuracy", "Verified accuracy (decided rollouts)"),
    Panel("reward_model/accuracy", "Reward model, accuracy at 0.5"),
    Panel("reward_model/auroc", "Reward model, AUROC"),
)
HACKING = (
    Panel("hacking/gap", "Gap: score - verified accuracy", share=False),
    Panel("hacking/gap_trend", "Trend of the gap (per step)", share=False),
    Panel("hacking/false_positive_rate", "Mean score of wrong rollouts"),
    Panel("tricks/repetition", "Share with repetition", share=False),
    Panel("tricks/several_answers", "Share with several answers", share=False),
    Panel("tricks/no_answer", "Share without an answer", share=False),
    Panel("tricks/reference_pasted", "Share with the reference pasted", share=False),
    Panel("tricks/length_drift", "Completion length against the start", share=False),
)
_RARE = {"share": False, "evaluated": True}
STABILITY = (
    Panel("reward_model/heldout_accuracy", "Held-out labels, accuracy", **_RARE, least=0.1),
    Panel("reward_model/heldout_auroc", "Held-out labels, AUROC", **_RARE, least=0.1),
    Panel("reward_model/margin", "Margin on the step's pairs", share=False),
    Panel("reward_model/old_pairs_accuracy", "Old pairs, accuracy", **_RARE, least=0.1),
    Panel("reward_model/old_pairs_margin", "Old pairs, margin", **_RARE),
    Panel("reward_model/probe_drift", "Probe set, mean change of score", **_RARE),
    Panel("reward_model/probe_correlation", "Probe set, rank correlation with the start", **_RARE,
          least=0.1),
)  # fmt: skip


def curves_of(arm: Arm, panel: Panel, window: int) -> Curve | None:
    """Mean and band of one quantity over an arm; None where no run has it."""
    found = []
    for run in arm.runs:
        steps, values = series(run.rows, panel.key)
        found.append((steps, values if panel.evaluated else smoothed(values, window)))
    return average(found) if any(steps for steps, _ in found) else None


def window_of(arms: Sequence[Arm]) -> int:
    """Steps of the moving mean of what is measured in every step."""
    longest = max((run.steps for arm in arms for run in arm.runs), default=0)
    return WINDOW if longest > _SMOOTH_FROM else 1


def draw_arms(
    arms: Sequence[Arm], panels: Sequence[Panel], folder: Path, name: str
) -> tuple[list[Path], dict[str, dict[str, Curve]]]:
    """Draw the panels that any arm has figures for.

    The band goes from the lowest to the highest run. Where not all runs of an arm are in the mean,
    the line is broken and dashed.

    Args:
        arms: each in a colour of its own.
        panels: what may be drawn.
        folder: to write to.
        name: of the files, without their ending.

    Returns:
        the files, none when nothing was measured; the curves by key and label.
    """
    window = window_of(arms)
    curves: dict[str, dict[str, Curve]] = {}
    for panel in panels:
        for arm in arms:
            curve = curves_of(arm, panel, window)
            if curve is not None:
                curves.setdefault(panel.key, {})[arm.label] = curve
    shown = [panel for panel in panels if panel.key in curves]
    if not shown:
        return [], curves
    looks = {
        arm.label: (drawing.COLOURS[i % 8], drawing.MARKERS[(i + i // 8) % 8])
        for i, arm in enumerate(arms)
    }
    alarmed = [arm for arm in arms if any(run.alarms for run in arm.runs)]
    longest = max(1, *(run.steps for arm in arms for run in arm.runs))
    opacity = 0.13 if len(arms) <= 4 else 0.08
    handles = _handles(arms, looks, curves, bool(alarmed))
    with plt.rc_context(drawing.STYLE):
        columns = min(3, len(shown)) if len(shown) != 4 else 2
        lines = math.ceil(len(shown) / columns)
        width, height = _WIDTH * columns, (3.1 + 0.13 * len(alarmed)) * lines
        texts = [line for handle in handles for line in str(handle.get_label()).splitlines()]
        inside = columns * lines > len(shown) and len(texts) * _LINE < 0.9 * height / lines
        beside = max(1, min(len(handles), int(14 * width / (max(map(len, texts)) + 8))))
        if not inside:
            height += _LINE * (len(texts) / beside + 1)
        figure, grid = plt.subplots(
            lines, columns, figsize=(width, height), layout="constrained", squeeze=False
        )
        axes = list(grid.flat)
        for axis, panel in zip(axes, shown, strict=False):
            for label, curve in curves[panel.key].items():
                whole = len(next(arm for arm in arms if arm.label == label).runs)
                _draw(axis, curve, whole, *looks[label], panel.evaluated, opacity)
            axis.set_title(panel.title)
            drawing.step_axis(axis)
            _limit(axis, panel, curves[panel.key])
            axis.set_xlim(-0.03 * longest, 1.03 * longest)
            rows = [(_alarm_steps(arm.runs), looks[arm.label][0], "^") for arm in alarmed]
            drawing.mark_alarms(axis, rows)
        spare = axes[len(shown) :]
        for axis in spare:
            axis.axis("off")
        if inside:
            spare[0].legend(handles=handles, loc="center left", frameon=False)
        else:
            figure.legend(handles=handles, loc="outside lower center", frameon=False, ncols=beside)
        return drawing.save(figure, folder, name), curves


def stretches(runs: Sequence[int]) -> list[tuple[int, int]]:
    """First and last position of each stretch over which equally many runs are averaged."""
    starts = [i for i in range(len(runs)) if i == 0 or runs[i] != runs[i - 1]]
    return list(zip(starts, [*(s - 1 for s in starts[1:]), len(runs) - 1], strict=True))


def _draw(
    axis: Any, curve: Curve, whole: int, colour: str, marker: str, evaluated: bool, opacity: float
) -> None:
    for first, last in stretches(curve.runs):
        part = slice(first, last + 1)
        steps, mean = curve.steps[part], curve.mean[part]
        marked = (evaluated and len(curve.steps) < 40) or len(steps) == 1
        axis.plot(
            steps, mean, color=colour, linewidth=1.8,
            linestyle="-" if curve.runs[first] == whole else (0, (3, 1.5)),
            marker=marker if marked else None, markersize=3.5,
        )  # fmt: skip
        if curve.runs[first] > 1:
            axis.fill_between(
                steps, curve.low[part], curve.high[part], color=colour, alpha=opacity, linewidth=0
            )


def _limit(axis: Any, panel: Panel, curves: Mapping[str, Curve]) -> None:
    low = min(min(curve.low) for curve in curves.values())
    high = max(max(curve.high) for curve in curves.values())
    if panel.share and low >= 0 and high <= 1:
        axis.set_ylim(0, 1.02)
    elif high - low < panel.least:
        top = min((low + high + panel.least) / 2, max(high, 1.0) + 0.05 * panel.least)
        axis.set_ylim(top - panel.least, top)
    elif 0 <= low <= 0.4 * high:
        axis.set_ylim(bottom=0)


def _alarm_steps(runs: Sequence[Run]) -> list[int]:
    return [alarm["step"] for run in runs for alarm in run.alarms]


def _handles(
    arms: Sequence[Arm],
    looks: Mapping[str, tuple[str, str]],
    curves: Mapping[str, Mapping[str, Curve]],
    alarmed: bool,
) -> list[Line2D]:
    drawn = {label for found in curves.values() for label in found}
    handles = []
    for arm in arms:
        if arm.label in drawn:
            colour, marker = looks[arm.label]
            # No break between a number and what it counts.
            count = f" ({len(arm.runs)}\u00a0runs)" if len(arm.runs) > 1 else " (1\u00a0run)"
            label = "\n".join(textwrap.wrap(arm.label + count, 44))
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=4, label=label))
    sizes = {arm.label: len(arm.runs) for arm in arms}
    if any(
        min(curve.runs) < sizes[label]
        for found in curves.values()
        for label, curve in found.items()
    ):
        handles.append(Line2D([], [], color=drawing.GREY, linestyle=(0, (3, 1.5)),
                              label="dashed: not all runs of the arm"))  # fmt: skip
    if alarmed:
        handles.append(Line2D([], [], color=drawing.GREY, marker="^", linestyle="",
                              markersize=5, label="alarm"))  # fmt: skip
    return handles
