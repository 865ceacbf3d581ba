"""What all figures share: style, colours, alarms on the step axis, files that never differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

# Okabe-Ito without its yellow, which is lost on white, and a grey: told apart by colour-blind
# readers too. Markers tell arms apart where colours do not.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
GREY = COLOURS[-1]

STYLE: Any = {
    "font.size": 9,
    "svg.hashsalt": "cooper",
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write ``<name>.png`` and ``<name>.svg``; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=130, metadata=metadata)
    plt.close(figure)
    return paths


def step_axis(axis: Any) -> None:
    """Name the step axis; there is no half step."""
    axis.set_xlabel("RL step")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))


def mark_alarms(axis: Any, rows: Sequence[tuple[Sequence[int], str, str]]) -> None:
    """Make room above the step axis and mark alarms in it, a row each.

    Call it last: the room depends on the limits.

    Args:
        axis: of the panel.
        rows: steps, colour and marker of each row, the uppermost first.
    """
    if not rows:
        return
    low, high = axis.get_ylim()
    ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
    unit = 0.045 * (high - low)
    axis.axhline(low, color=GREY, linewidth=0.6)
    for number, (steps, colour, marker) in enumerate(rows):
        heights = [low - unit * (number + 0.6)] * len(steps)
        axis.scatter(steps, heights, marker=marker, s=20, color=colour, linewidths=0, zorder=3)
    axis.set_ylim(low - unit * (len(rows) + 0.2), high)
    axis.set_yticks(ticks)
