"""How a run went, in one JSON object and one table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from cooper.report.runs import Rows, series
from cooper.run_folder import RunFolder

_TRAINING = (
    ("reward/mean", "training reward"),
    ("verifier/accuracy", "verified accuracy (decided rollouts)"),
    ("verifier/undecided", "undecided rollouts"),
    ("hacking/gap", "score - verified accuracy"),
    ("reward_model/accuracy", "reward model, accuracy at 0.5"),
    ("reward_model/auroc", "reward model, AUROC"),
    ("pairs/built", "pairs a step"),
    ("policy/kl", "KL to the reference"),
    ("completions/mean_length", "completion length (tokens)"),
)


def summarise(folder: RunFolder, **facts: Any) -> dict[str, Any]:
    """Collect start, best and end of what was measured.

    Training figures are means over the first and last tenth of the steps, since one batch says
    little.

    Args:
        folder: of the run.
        **facts: status, CPU seconds and the like, taken over as they are.
    """
    rows = folder.read_metrics()
    steps = [row for row in rows if row["step"] > 0]
    keys = sorted({k for row in rows for k in row if k.startswith("val/")})
    evaluation = {}
    for key in keys:
        values = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        evaluation[key] = {
            "start": values[0][1],
            "max": max(v for _, v in values),
            "min": min(v for _, v in values),
            "end": values[-1][1],
            "end_step": values[-1][0],
        }
    training = {}
    for key, _ in _TRAINING:
        ends = first_and_last_tenth(rows, key)
        if ends is not None:
            training[key] = {"start": ends[0], "end": ends[1]}
    return {
        **facts,
        "steps": steps[-1]["step"] if steps else 0,
        "evaluation": evaluation,
        "training": training,
    }


def first_and_last_tenth(rows: Rows, key: str) -> tuple[float, float] | None:
    """Means of a metric over the first and the last tenth of the steps; None without values."""
    steps = [row for row in rows if row["step"] > 0]
    share = max(1, len(steps) // 10)
    first, last = series(steps[:share], key)[1], series(steps[-share:], key)[1]
    if not first or not last:
        return None
    return sum(first) / len(first), sum(last) / len(last)


def render_summary(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print the table."""
    console = console or Console()
    table = Table(title=f"{summary.get('name', 'run')}: {summary['steps']} steps, "
                  f"{summary.get('status', 'unfinished')}")  # fmt: skip
    table.add_column("")
    for column in ("start", "lowest", "highest", "end"):
        table.add_column(column, justify="right")
    for key, values in summary["evaluation"].items():
        if "/avg_at_" in key or key.endswith("/greedy"):
            name = key.removeprefix("val/").replace("/", " ").replace("_at_", "@")
            cells = (values["start"], values["min"], values["max"], values["end"])
            table.add_row(name, *(f"{v:.3f}" for v in cells))
    table.add_section()
    labels = dict(_TRAINING)
    for key, values in summary["training"].items():
        cells = (f"{values['start']:.3f}", "", "", f"{values['end']:.3f}")
        table.add_row(labels[key], *cells)
    console.print(table)
