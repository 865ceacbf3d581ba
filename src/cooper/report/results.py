"""The figures of a report: of each run, and of each arm over its runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cooper.report.arms import VARIES, Arm, differing, seed_of
from cooper.report.runs import Run, is_number, series
from cooper.report.statistics import mean_of
from cooper.report.summary import first_and_last_tenth

AVERAGE = re.compile(r"val/([^/]+)/avg_at_\d+")
_LAST = 3  # evaluations

# One figure a run: what an arm's row averages.
FIGURES = ("start", "end", "best", "gain")
TENTHS = {"reward": "reward/mean", "auroc": "reward_model/auroc"}


def main_metric(runs: Sequence[Run]) -> str | None:
    """The average accuracy that most runs have, of those the one evaluated most often.

    Groups of a set (``set.group``) are parts of it and do not count.
    """
    counts: dict[str, tuple[int, int]] = {}
    for key in evaluations(runs):
        found = AVERAGE.fullmatch(key)
        if found and "." not in found[1]:
            lengths = [len(series(run.rows, key)[0]) for run in runs]
            counts[key] = (sum(map(bool, lengths)), sum(lengths))
    return max(counts, key=lambda key: counts[key]) if counts else None


def evaluations(runs: Sequence[Run]) -> list[str]:
    """Keys of average and greedy accuracy, in alphabetical order."""
    keys = {key for run in runs for row in run.rows for key in row}
    return sorted(k for k in keys if AVERAGE.fullmatch(k) or re.fullmatch(r"val/[^/]+/greedy", k))


def groups_of(main: str | None, runs: Sequence[Run]) -> list[str]:
    """The main metric's keys for the groups of its set."""
    if main is None:
        return []
    _, name, metric = main.split("/")
    wanted = re.compile(rf"val/{re.escape(name)}\.[^/]+/{metric}")
    return [key for key in evaluations(runs) if wanted.fullmatch(key)]


def figures_of(run: Run, main: str | None) -> dict[str, Any]:
    """What a run's row shows; None stands for what was not measured.

    ``gain`` is the mean of the last three evaluations after the start, or of as many as there
    are, minus the start.
    """
    steps, values = series(run.rows, main) if main else ([], [])
    later = [v for s, v in zip(steps, values, strict=True) if s > 0]
    at_start = bool(steps) and steps[0] == 0
    best = max(range(len(values)), key=lambda i: values[i]) if values else None
    last = later[-_LAST:]
    seconds = run.summary.get("cpu_seconds")
    facts = {
        "start": values[0] if at_start else None,
        "end": values[-1] if later else None,
        "end_step": steps[-1] if later else None,
        "best": values[best] if best is not None else None,
        "best_step": steps[best] if best is not None else None,
        "gain": sum(last) / len(last) - values[0] if last and at_start else None,
        "alarms": [_alarm(row) for row in run.alarms],
        "cpu_seconds": seconds if is_number(seconds) else None,
    }
    for name, key in TENTHS.items():
        facts[name] = first_and_last_tenth(run.rows, key)
    return facts


def results(arms: Sequence[Arm], seed_key: str = "seed") -> dict[str, Any]:
    """All figures of a report as plain values, as ``results.json`` holds them."""
    everything = [run for arm in arms for run in (*arm.runs, *arm.doubled)]
    main = main_metric(everything)
    keys = [key for key in evaluations(everything) if key != main]
    settings = [arm.settings for arm in arms if arm.runs[0].config]
    return {
        "main_metric": main,
        "differing": differing(settings),
        "arms": {
            arm.label: {
                "settings": arm.settings,
                "varying": [key for key, value in arm.settings.items() if value == VARIES],
                **_arm_figures(arm, main),
                "evaluations": {key: _start_and_end(arm, key) for key in keys},
                "runs": [
                    {
                        "name": run.name,
                        "seed": seed_of(run, seed_key),
                        "state": run.state,
                        "steps": run.steps,
                        "max_steps": run.max_steps,
                        "commit": run.commit,
                        "counted": run in arm.runs,
                        "notes": list(run.notes),
                        **figures_of(run, main),
                    }
                    for run in (*arm.runs, *arm.doubled)
                ],
            }
            for arm in arms
        },
    }


def _arm_figures(arm: Arm, main: str | None) -> dict[str, Any]:
    """Means over the arm's runs.

    Where a run stands at its end counts only if it came as far as the furthest one of its arm:
    a mean over different lengths is a mean of different things.
    """
    rows = [figures_of(run, main) for run in arm.runs]
    furthest = max((row["end_step"] or 0 for row in rows), default=0)
    whole = [row for row in rows if row["end_step"] == furthest and furthest]
    taken = {"start": rows, "end": whole, "best": whole, "gain": whole}
    found: dict[str, Any] = {
        name: _mean([row[name] for row in taken[name] if row[name] is not None]) for name in FIGURES
    }
    length = max((run.steps for run in arm.runs), default=0)
    long = [row for run, row in zip(arm.runs, rows, strict=True) if run.steps == length]
    for name in TENTHS:
        ends = [row[name] for row in long if row[name] is not None]
        found[name] = [_mean([pair[at] for pair in ends]) for at in (0, 1)] if ends else None
    seconds = [row["cpu_seconds"] for row in rows if row["cpu_seconds"] is not None]
    first = [min(a["step"] for a in row["alarms"]) for row in rows if row["alarms"]]
    return {
        "count": len(rows),
        "end_step": furthest or None,
        "best_steps": [row["best_step"] for row in whole],
        **found,
        "cpu_seconds": _mean(seconds),
        "alarmed": len(first),
        "first_alarm": min(first, default=None),
    }


def _start_and_end(arm: Arm, key: str) -> dict[str, Any]:
    """Means of the first and the last value of an evaluation, over the runs that came furthest."""
    curves = [series(run.rows, key) for run in arm.runs]
    furthest = max((steps[-1] for steps, _ in curves if steps), default=0)
    starts = [values[0] for steps, values in curves if steps and steps[0] == 0]
    ends = [values[-1] for steps, values in curves if steps and steps[-1] == furthest > 0]
    return {"start": _mean(starts), "end": _mean(ends), "end_step": furthest or None}


def _mean(values: Sequence[float]) -> dict[str, Any] | None:
    found = mean_of(values)
    return asdict(found) if found else None


def _alarm(row: dict[str, Any]) -> dict[str, Any]:
    named = ("step", "name", "key", "value", "threshold", "message", "action")
    return {key: row.get(key) for key in named}
