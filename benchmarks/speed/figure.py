"""The figure: where a step's time goes, and how much faster ours is as the work varies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from summary import BASE_PHASES, NOT_VARIED

from cooper.report import drawing

COLOURS = drawing.COLOURS[:5]


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw both panels."""
    base = results["base"]["step"]
    with plt.rc_context(drawing.STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1, 1.25))
        bars = {
            "TRL": base["TRL"]["seconds"],
            "cooper": base["ours"]["seconds"],
            "floor": base["ours"]["floor"],
        }
        for row, seconds in enumerate(bars.values()):
            start = 0.0
            for phase, colour in zip(BASE_PHASES, COLOURS, strict=True):
                left.barh(
                    row, seconds[phase], left=start, color=colour, label=None if row else phase
                )
                start += seconds[phase]
            left.text(start, row, f" {start:.1f} s", va="center")
        left.set_yticks(range(len(bars)), list(bars))
        left.invert_yaxis()
        left.set_xlim(0, 1.15 * base["TRL"]["seconds"]["step"])
        left.set_xlabel("CPU seconds a step, one thread")
        left.legend(loc="lower right", fontsize=8)
        rows = [
            (f"{part}: {name}", case["times_faster"]["per token"])
            for part, cases in results.items()
            if part not in NOT_VARIED
            for name, case in cases.items()
        ]
        rows.insert(0, ("the work on the left", base["times_faster"]["per token"]))
        names, values = [name for name, _ in rows], [value for _, value in rows]
        right.barh(range(len(rows)), values, color=drawing.BLUE)
        for row, value in enumerate(values):
            right.text(value, row, f" {value:.1f}", va="center", fontsize=8)
        right.set_yticks(range(len(rows)), names, fontsize=8)
        right.invert_yaxis()
        right.axvline(1, color=drawing.GREY, linewidth=1)
        right.set_xlabel("times faster than TRL, a completion token")
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)
