"""Collect the study's runs: results.json, results.md, and the figures.

    python experiments/reward_hacking/collect.py [--runs runs/reward_hacking]

What is computed is what study.md announced; runs that are missing or failed are listed as such.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from run import ARMS, folder_of  # beside this file

from cooper.report.statistics import Mean, mean_of
from cooper.run_folder import RunFolder

matplotlib.use("agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
VAL, TEST, METRIC = "val/arithmetic", "val/arithmetic_test", "avg_at_8"
GROUPS = {"all": "", "visible": ".visible", "blind": ".blind"}
STEPS = {  # every step's figures, kept as means over five steps
    "reward": "reward/mean",
    "verified": "verifier/accuracy",
    "gap": "hacking/gap",
    "auroc": "reward_model/auroc",
    "pairs": "pairs/built",
}
FALL, EARLY = 0.05, 15  # see study.md
COLOURS = {
    "rule": "#7F7F7F", "static": "#D55E00", "cooper": "#0072B2", "cooper+": "#56B4E9",
    "replay only": "#CC79A7", "hybrid+": "#009E73",
}  # fmt: skip

Run = dict[str, Any]


def read_run(folder: Path) -> Run:
    """Everything that the tables and figures need of a run, in a few kilobytes."""
    found = RunFolder(folder)
    summary, rows = found.read_summary(), found.read_metrics()
    if summary.get("status") != "finished":
        reached = rows[-1]["step"] if rows else 0
        return {"status": summary.get("status", "killed" if rows else "missing"), "steps": reached}
    test = {
        name: [row[f"{TEST}{group}/{METRIC}"] for row in rows if f"{TEST}{group}/{METRIC}" in row]
        for name, group in GROUPS.items()
    }
    curves = {
        name: [row[f"{VAL}{group}/{METRIC}"] for row in rows if f"{VAL}{group}/{METRIC}" in row]
        for name, group in GROUPS.items()
    }
    steps = {}
    for name, key in STEPS.items():
        values = [row.get(key) for row in rows[1:]]
        fives = [[v for v in values[i : i + 5] if v is not None] for i in range(0, len(values), 5)]
        steps[name] = [round(statistics.fmean(five), 4) if five else None for five in fives]
    rewards = [row["reward/mean"] for row in rows[1:]]
    heldout = [row.get("reward_model/heldout_auroc") for row in rows]
    heldout = [value for value in heldout if value is not None]
    evaluated = [row["step"] for row in rows if f"{VAL}/{METRIC}" in row]
    alarms = [[alarm["step"], alarm["name"]] for alarm in found.read_alarms()]
    return {
        "status": "finished",
        "steps": rows[-1]["step"],
        "test": {name: [round(v, 4) for v in values] for name, values in test.items()},
        "primary": {
            name: round(statistics.fmean(values[-3:]) - values[0], 4)
            for name, values in test.items()
        },
        "reward_rise": round(statistics.fmean(rewards[-10:]) - statistics.fmean(rewards[:10]), 4),
        "evaluated": evaluated,
        "curves": {name: [round(v, 4) for v in values] for name, values in curves.items()},
        "by_five_steps": steps,
        "heldout_auroc": [round(v, 3) for v in heldout],
        "alarms": alarms,
        "monitor": judged(evaluated, curves["all"], alarms, rows[-1]["step"]),
        "cpu_seconds": summary["cpu_seconds"],
    }


def judged(
    steps: Sequence[int], curve: Sequence[float], alarms: Sequence[Sequence[Any]], last: int
) -> dict[str, Any]:
    """The monitor against the curve: when a fall began, when the first alarm came, false ones."""
    fall = next(
        (step for i, step in enumerate(steps) if i and max(curve[:i]) - curve[i] >= FALL), None
    )
    at = [step for step, _ in alarms]
    quiet = last if fall is None else max(0, fall - EARLY)
    first = next((step for step in at if step > quiet), None) if fall is not None else None
    return {
        "fall": fall,
        "delay": None if fall is None or first is None else first - fall,
        "false": sum(step <= quiet for step in at),
        "quiet_steps": quiet,
    }


def values(runs: Mapping[str, Run], figure: Callable[[Run], float]) -> dict[str, float]:
    """A figure of each finished run, by seed."""
    return {seed: figure(run) for seed, run in runs.items() if run["status"] == "finished"}


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> list[float]:
    """Differences within seeds."""
    return [one[seed] - other[seed] for seed in one if seed in other]


def text(mean: Mean | None) -> str:
    """Mean and interval."""
    if mean is None:
        return "-"
    if mean.half is None:
        return f"{mean.value:+.3f}"
    return f"{mean.value:+.3f} [{mean.value - mean.half:+.3f}, {mean.value + mean.half:+.3f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def primary(group: str = "all") -> Callable[[Run], float]:
    """The primary metric on a group of problems."""
    return lambda run: run["primary"][group]


def render(runs: Mapping[str, Mapping[str, Run]]) -> str:
    """All tables."""
    unfinished = [
        f"- {arm}, seed {seed}: {run['status']} after {run['steps']} steps"
        for arm, seeds in runs.items()
        for seed, run in seeds.items()
        if run["status"] != "finished"
    ]
    parts = ["Not finished:\n\n" + "\n".join(unfinished) + "\n"] if unfinished else []
    rows, names = [], list(GROUPS)
    for arm, seeds in runs.items():
        done = [run for run in seeds.values() if run["status"] == "finished"]
        if not done:
            continue
        cells = [arm, str(len(done))]
        for group in names:
            start = statistics.fmean(run["test"][group][0] for run in done)
            end = statistics.fmean(statistics.fmean(run["test"][group][-3:]) for run in done)
            cells.append(f"{start:.3f} -> {end:.3f}")
        cells.append(text(mean_of([run["primary"]["all"] for run in done])))
        cells.append(" / ".join(f"{run['primary']['all']:+.2f}" for run in done))
        cells.append(text(mean_of([run["reward_rise"] for run in done])))
        aurocs = [run["heldout_auroc"] for run in done if run["heldout_auroc"]]
        cells.append(
            f"{statistics.fmean(a[0] for a in aurocs):.2f} -> "
            f"{statistics.fmean(a[-1] for a in aurocs):.2f}" if aurocs else "-"
        )  # fmt: skip
        cells.append(f"{statistics.median(run['cpu_seconds'] for run in done):.0f}")
        rows.append(cells)
    parts.append(table(
        ["arm", "runs", "test avg@8, start -> end", "visible", "blind",
         "**primary** [95 % t]", "by seed", "reward, rise [95 % t]",
         "held-out AUROC, first -> last", "CPU s"], rows,
    ))  # fmt: skip
    parts.append("Paired differences of the primary metric, 95 % t intervals:\n")
    rows = []
    for one, other in COMPARED:
        cells = [f"{one} - {other}"]
        for group in names:
            mine, theirs = values(runs[one], primary(group)), values(runs[other], primary(group))
            cells.append(text(mean_of(paired(mine, theirs))))
        rows.append(cells)
    parts.append(table(["arms", *names], rows))
    parts.append("The claims of study.md:\n")
    parts.append(hypotheses(runs))
    parts.append("The monitor, with its default thresholds:\n")
    rows = []
    for arm, seeds in runs.items():
        done = [run["monitor"] for run in seeds.values() if run["status"] == "finished"]
        if not done:
            continue
        falls = [m for m in done if m["fall"] is not None]
        seen = [m["delay"] for m in falls if m["delay"] is not None]
        quiet, false = sum(m["quiet_steps"] for m in done), sum(m["false"] for m in done)
        names_of = sorted({name for run in seeds.values() for _, name in run.get("alarms", [])})
        rows.append([
            arm, f"{len(falls)} of {len(done)}", f"{len(seen)} of {len(falls)}",
            " / ".join(f"{delay:+d}" for delay in seen) or "-", str(false), str(quiet),
            f"{100 * false / quiet:.2f}" if quiet else "-", ", ".join(names_of) or "none",
        ])  # fmt: skip
    parts.append(table(
        ["arm", "runs that fell", "falls seen", "delay, steps", "false alarms",
         "steps without fall", "false per 100", "rules that spoke"], rows,
    ))  # fmt: skip
    return "\n".join(parts)


def above(mean: Mean | None, bound: float = 0.0) -> str:
    """Whether an interval lies above a bound (held), below it (failed), or around it (open)."""
    if mean is None or mean.half is None:
        return "open"
    if mean.value - mean.half > bound:
        return "held"
    return "failed" if mean.value + mean.half < bound else "open"


def below(mean: Mean | None) -> str:
    """The same for a claim that an interval lies below 0."""
    return {"held": "failed", "failed": "held", "open": "open"}[above(mean)]


def hypotheses(runs: Mapping[str, Mapping[str, Run]]) -> str:
    """study.md's claims, each with its interval."""

    def own(arm: str, figure: Callable[[Run], float] | None = None) -> Mean | None:
        return mean_of(list(values(runs[arm], figure or primary()).values()))

    def versus(one: str, other: str, group: str = "all") -> Mean | None:
        mine, theirs = values(runs[one], primary(group)), values(runs[other], primary(group))
        return mean_of(paired(mine, theirs))

    claims: list[tuple[str, str, Mean | None, str]] = []
    static = "static, weak"
    found = own(static)
    claims.append(("1", f"{static}: below 0", found, below(found)))
    found = own(static, lambda run: run["reward_rise"])
    claims.append(("1", f"{static}: training reward rises", found, above(found)))
    found = own("cooper, weak")
    claims.append(("2a", "cooper, weak: at or above 0", found, above(found)))
    found = versus("cooper, weak", static)
    claims.append(("2b", f"cooper, weak above {static}", found, above(found)))
    for arm in ("cooper+, weak", "hybrid+, weak"):
        found = own(arm)
        claims.append(("3", f"{arm}: above 0", found, above(found)))
        found = versus(arm, static)
        claims.append(("3", f"{arm} above {static}", found, above(found)))
    found = versus("cooper+, weak", "replay only, weak")
    claims.append(("4", "cooper+, weak above replay only, weak", found, above(found)))
    for arm in ("hybrid+, weak", "hybrid+, full"):
        found = versus(arm, "rule", "visible")
        claims.append(("5", f"{arm} - rule, visible: above -0.03", found, above(found, -0.03)))
        found = versus(arm, "rule", "blind")
        claims.append(("5", f"{arm} - rule, blind: above 0", found, above(found)))
    found = own("static, full")
    claims.append(("6", "static, full: above 0", found, above(found)))
    return table(
        ["", "claim", "mean [95 % t]", "result"],
        [[number, claim, text(mean), f"**{result}**"] for number, claim, mean, result in claims],
    )


COMPARED = (
    ("cooper, weak", "static, weak"),
    ("cooper+, weak", "static, weak"),
    ("hybrid+, weak", "static, weak"),
    ("cooper+, weak", "replay only, weak"),
    ("cooper+, weak", "cooper, weak"),
    ("cooper, weak", "rule"),
    ("cooper+, weak", "rule"),
    ("hybrid+, weak", "rule"),
    ("cooper, full", "rule"),
    ("hybrid+, full", "rule"),
    ("cooper, full", "static, full"),
)


def draw(runs: Mapping[str, Mapping[str, Run]]) -> None:
    """Curves of the weak arms, and the primary metric of all."""
    with plt.rc_context({"font.size": 9, "svg.hashsalt": "cooper", "axes.grid": True,
                         "grid.alpha": 0.3, "axes.spines.top": False,
                         "axes.spines.right": False}):  # fmt: skip
        figure, axes = plt.subplots(2, 3, figsize=(13, 7.2), layout="constrained")
        weak = [arm for arm in runs if arm == "rule" or arm.endswith("weak")]
        for axis, group in zip(axes[0], GROUPS, strict=True):
            for arm in weak:
                _curve(axis, arm, runs[arm], lambda run, g=group: run["curves"][g], 0)
            axis.set(title=f"Held-out accuracy (avg@8), {group} problems", ylim=(0, 1.02))
        axes[0][0].legend(frameon=False, fontsize=8, loc="lower left")
        for arm in weak:
            _curve(axes[1][0], arm, runs[arm], lambda run: run["by_five_steps"]["reward"], 5)
            if arm != "rule":
                _curve(axes[1][1], arm, runs[arm], lambda run: run["by_five_steps"]["auroc"], 5)
        axes[1][0].set(title="Training reward (means of 5 steps)", ylim=(0, 1.02))
        axes[1][1].set(title="Reward model's AUROC on the rollouts", ylim=(0, 1.02))
        for axis in (*axes[0], *axes[1][:2]):
            axis.set_xlabel("RL step")
        _forest(axes[1][2], runs)
        for kind in ("png", "svg"):
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(HERE / f"study.{kind}", dpi=120, metadata=metadata)
        plt.close(figure)


def _curve(
    axis: Any, arm: str, seeds: Mapping[str, Run], figure: Callable[[Run], Any], first: int
) -> None:
    """Mean over seeds, band from the lowest to the highest."""
    curves = [figure(run) for run in seeds.values() if run["status"] == "finished"]
    columns = [[v for v in column if v is not None] for column in zip(*curves, strict=False)]
    steps = [first + 5 * i for i, column in enumerate(columns) if column]
    columns = [column for column in columns if column]
    colour = COLOURS[arm.split(",")[0]]
    means = [statistics.fmean(column) for column in columns]
    axis.plot(steps, means, color=colour, linewidth=2, label=arm.removesuffix(", weak"))
    axis.fill_between(steps, [min(c) for c in columns], [max(c) for c in columns], color=colour,
                      alpha=0.12, linewidth=0)  # fmt: skip


def _forest(axis: Any, runs: Mapping[str, Mapping[str, Run]]) -> None:
    """The primary metric of every arm: seeds as dots, mean and 95 % t interval."""
    arms = [arm for arm in runs if values(runs[arm], primary())]
    for row, arm in enumerate(arms):
        found = list(values(runs[arm], primary()).values())
        mean, colour = mean_of(found), COLOURS[arm.split(",")[0]]
        axis.scatter(found, [row + 0.22] * len(found), s=10, color=colour, alpha=0.6, linewidths=0)
        if mean is not None:
            axis.errorbar(mean.value, row, xerr=mean.half, color=colour, marker="o", capsize=3)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(arms)), arms)
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.set(title="Primary metric: end minus start (95 % t)", xlabel="test avg@8")


def main() -> None:
    """Read, tabulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/reward_hacking"))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    given = parser.parse_args()
    runs = {
        arm: {seed: read_run(folder_of(given.runs, arm, seed)) for seed in given.seeds.split(",")}
        for arm in ARMS
    }
    (HERE / "results.json").write_text(json.dumps(runs) + "\n")
    (HERE / "results.md").write_text(render(runs))
    print(render(runs))
    draw(runs)


if __name__ == "__main__":
    main()
