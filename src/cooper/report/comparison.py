"""The report of one or more runs: ``report.md``, ``results.json`` and the figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cooper.files import write_atomically
from cooper.report.arm_figures import (
    CURVES,
    HACKING,
    STABILITY,
    WINDOW,
    Panel,
    draw_arms,
    window_of,
)
from cooper.report.arms import NOT_SET, Arm, shown
from cooper.report.figures import draw_dynamics
from cooper.report.markdown import markdown_table
from cooper.report.results import groups_of, results
from cooper.report.statistics import Curve

_CAPTIONS = {
    "curves": "Held-out accuracy, training reward beside verified accuracy, reward model",
    "groups": "Held-out accuracy by group",
    "hacking": "Is the reward being hacked? Gap, scores of wrong rollouts, known tricks",
    "stability": "Stability of the reward model",
}
_STATES = ("finished", "stopped", "interrupted", "failed", "killed", "running")


def write_report(
    arms: Sequence[Arm],
    folder: Path,
    title: str,
    seed_key: str = "seed",
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """Write figures, tables and the figures behind them.

    The same runs give the same bytes.

    Args:
        arms: to compare; one arm of one run gives that run's report.
        folder: to write to; files of an earlier report there are replaced.
        title: of the report.
        seed_key: setting that tells the runs of an arm apart.
        others: folders of other programs that were found and left out.

    Returns:
        what ``results.json`` holds.
    """
    found = results(arms, seed_key)
    drawn, curves = _draw(arms, found["main_metric"], folder)
    for name in set(_CAPTIONS) - set(drawn):  # of an earlier report; these would seem to belong
        for kind in ("png", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    found["curves"] = curves
    text = json.dumps(_rounded(found), ensure_ascii=False)
    write_atomically(folder / "results.json", f"{text}\n".encode())
    report = render_markdown(found, title, drawn, window_of(arms), others)
    write_atomically(folder / "report.md", report.encode())
    return found


def _draw(
    arms: Sequence[Arm], main: str | None, folder: Path
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Draw all figures; give the names of those that there are, and the curves in them."""
    held_out = [Panel(main, f"Held-out accuracy ({_short(main)})", evaluated=True)] if main else []
    everything = [run for arm in arms for run in arm.runs]
    groups = [
        Panel(key, f"{key.split('/')[1].split('.', 1)[1]} ({_short(key)})", evaluated=True)
        for key in groups_of(main, everything)
    ]
    figures = {
        "curves": (*held_out, *CURVES),
        "groups": groups,
        "hacking": HACKING,
        "stability": STABILITY,
    }
    drawn, curves = [], {}
    for name, panels in figures.items():
        paths, found = draw_arms(arms, panels, folder, name)
        if name == "curves" and len(everything) == 1:
            run = everything[0]
            # One run's curves are told apart by what they are of, and share their panels.
            paths = draw_dynamics(run.rows, run.alarms, folder, name, f"{run.name}, {run.state}")
        if paths:
            drawn.append(name)
        for key, by_label in found.items():
            curves[key] = {label: _plain(curve) for label, curve in by_label.items()}
    return drawn, curves


def render_markdown(
    found: Mapping[str, Any],
    title: str,
    drawn: Sequence[str],
    window: int,
    others: Sequence[str] = (),
) -> str:
    """Write ``report.md``.

    Args:
        found: by :func:`cooper.report.results.results`.
        title: of the report.
        drawn: names of the figures that there are.
        window: steps of the moving mean in them.
        others: folders that were left out.
    """
    arms = found["arms"]
    runs = [run for arm in arms.values() for run in arm["runs"]]
    parts = [f"# {title}", _read(runs, arms, others)]
    if len(arms) > 1:
        parts += ["## Settings that differ", _settings(found)]
    parts += ["## Results", _explained(found["main_metric"], len(runs) > 1), _arm_table(found)]
    if found["main_metric"] is None:
        parts.append("No evaluation was made, so there are no held-out figures.")
    other = _evaluations(found)
    if other:
        parts += ["Other evaluations, start -> end, means over runs:", other]
    if drawn:
        parts += ["## Figures", _figures(drawn, window, len(runs) == 1)]
    else:
        parts.append("There are no figures: nothing has been measured yet.")
    parts += ["## Runs", _run_table(arms), "## Alarms", _alarms(arms)]
    return "\n\n".join(parts) + "\n"


def render_terminal(found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the arms' table."""
    console = console or Console()
    table = Table()
    table.add_column("arm", overflow="fold")
    for column in ("n", "end", "gain ± 95 %", "reward", "alarms"):
        table.add_column(column, justify="right", no_wrap=True)
    for label, arm in found["arms"].items():
        end = _number(arm["end"] and arm["end"]["value"])
        gain, reward = _mean(arm["gain"], signed=True), _tenths(arm["reward"])
        alarmed = f"{arm['alarmed']}/{arm['count']}"
        table.add_row(label, _counted(arm), end, gain, reward, alarmed)
    console.print(table)


def _read(runs: Sequence[Mapping[str, Any]], arms: Mapping[str, Any], others: Sequence[str]) -> str:
    """What was read, and what was left out."""
    states = Counter(run["state"] for run in runs)
    order = [*_STATES, *sorted(set(states) - set(_STATES))]
    listed = ", ".join(f"{states[state]} {state}" for state in order if states[state])
    steps = sorted({run["steps"] for run in runs})
    reached = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    lines = [
        f"{_count(len(runs), 'run')} in {_count(len(arms), 'arm')}: {listed}. "
        f"Steps reached: {reached}."
    ]
    if states["killed"]:
        lines.append("Killed: the run ended without a summary, and no process is at work there.")
    commits = Counter(str(run["commit"])[:10] for run in runs if run["commit"])
    if len(commits) > 1:
        listed = ", ".join(f"{commit} ({_count(n, 'run')})" for commit, n in commits.items())
        lines.append(f"The runs were made by different versions of the code: {listed}.")
    for run in runs:
        lines += [f"`{run['name']}`: {note}." for note in run["notes"]]
        if not run["counted"]:
            lines.append(
                f"`{run['name']}` is left out: another run has its settings and its seed "
                f"({run['seed']}) and got as far or further."
            )
    for label, arm in arms.items():
        if arm["varying"]:
            names = ", ".join(f"`{key}`" for key in arm["varying"])
            lines.append(f"Runs of {label} differ in {names} besides the seed.")
    if others:
        names = ", ".join(f"`{name}`" for name in others)
        lines.append(f"Left out, since cooper-train did not write it: {names}.")
    return lines[0] if len(lines) == 1 else "\n".join(f"- {line}" for line in lines)


def _settings(found: Mapping[str, Any]) -> str:
    arms = found["arms"]
    rows = [
        [f"`{key}`", *(shown(key, arm["settings"].get(key)) for arm in arms.values())]
        for key in found["differing"]
    ]
    if not rows:
        return f"None that could be read ({NOT_SET})."
    table = markdown_table(["setting", *arms], rows)
    if {"reward._target_", "reward.train_model"} & set(found["differing"]):
        table += (
            "\n\nIn labels, `reward` is the option of that group, read from its class: rule, "
            "static (a frozen model), cooper (a trained one), hybrid."
        )
    return table


def _explained(main: str | None, several: bool) -> str:
    metric = f"Start, end, best: {_set(main)}, {_short(main)}. " if main else ""
    text = (
        f"{metric}Gain: mean of the last 3 evaluations after the start (of as many as there are) "
        "minus the start. Reward and AUROC (of the reward model, against the verifier, on the "
        "step's rollouts): means over the first -> last tenth of the steps. CPU s: of the "
        "process that ended the run."
    )
    if several:
        text += (
            " All are means over runs; ±: half of the 95 % t interval, which one run does not "
            "have. End, best, gain, reward and AUROC are over the runs that came as far as the "
            "furthest of their arm; where those are not all, n gives them / all."
        )
    return text


def _header() -> list[str]:
    return ["arm", "n", "start", "end (step)", "best (step)", "gain", "reward", "AUROC",
            "runs with alarm (first)", "CPU s"]  # fmt: skip


def _arm_table(found: Mapping[str, Any]) -> str:
    rows = [[label, *_arm_cells(arm)] for label, arm in found["arms"].items()]
    return markdown_table(_header(), rows)


def _arm_cells(arm: Mapping[str, Any]) -> list[str]:
    end, best = _mean(arm["end"]), _mean(arm["best"])
    alarmed = f"{arm['alarmed']} ({arm['first_alarm']})" if arm["alarmed"] else "0"
    return [
        _counted(arm),
        _mean(arm["start"]),
        f"{end} ({arm['end_step']})" if arm["end"] else "-",
        f"{best} ({_span(arm['best_steps'])})" if arm["best"] else "-",
        _mean(arm["gain"], signed=True),
        _tenths(arm["reward"]),
        _tenths(arm["auroc"]),
        alarmed,
        f"{arm['cpu_seconds']['value']:.0f}" if arm["cpu_seconds"] else "-",
    ]


def _counted(arm: Mapping[str, Any]) -> str:
    """Runs that came as far as the furthest of their arm, of all."""
    whole = arm["end"]["runs"] if arm["end"] else 0
    return str(whole) if whole == arm["count"] else f"{whole}/{arm['count']}"


def _evaluations(found: Mapping[str, Any]) -> str:
    arms = found["arms"]
    keys = [key for arm in arms.values() for key in arm["evaluations"]]
    rows = []
    for key in dict.fromkeys(keys):
        cells = []
        for arm in arms.values():
            value = arm["evaluations"][key]
            start, end = (value[at]["value"] if value[at] else None for at in ("start", "end"))
            step = f" ({value['end_step']})" if end is not None else ""
            known = start is not None or end is not None
            cells.append(f"{_number(start)} -> {_number(end)}{step}" if known else "-")
        rows.append([f"{_set(key)}, {_short(key)}", *cells])
    return markdown_table(["", *arms], rows) if rows else ""


def _figures(drawn: Sequence[str], window: int, single: bool) -> str:
    smooth = f" What is measured in every step is a mean over the last {window} steps."
    how = "Marks on the step axis: alarms."
    if not single:
        how = (
            "Lines: means over the runs of an arm. Bands: from the lowest to the highest run. "
            "A line is broken and dashed where not all runs of the arm are in it: they ended "
            "before, or have not come so far. Triangles on the step axis: alarms, in the colour "
            "of their arm."
        )
    parts = [how + (smooth if window == WINDOW else "")]
    parts += [f"![{_CAPTIONS[name]}]({name}.png)\n\n{_CAPTIONS[name]} ([SVG]({name}.svg))."
              for name in drawn]  # fmt: skip
    return "\n\n".join(parts)


def _run_table(arms: Mapping[str, Any]) -> str:
    header = ["run", "arm", "seed", "state", "steps", "start", "end (step)", "best (step)", "gain",
              "reward", "AUROC", "alarms (first)", "CPU s"]  # fmt: skip
    rows = []
    for label, arm in arms.items():
        for run in arm["runs"]:
            alarms = run["alarms"]
            length = f" of {run['max_steps']}" if run["max_steps"] is not None else ""
            rows.append([
                f"`{run['name']}`",
                label if run["counted"] else f"{label} (left out)",
                run["seed"],
                run["state"],
                f"{run['steps']}{length}",
                _number(run["start"]),
                _at(run["end"], run["end_step"]),
                _at(run["best"], run["best_step"]),
                _number(run["gain"], signed=True),
                _tenths(run["reward"]),
                _tenths(run["auroc"]),
                f"{len(alarms)} ({min(a['step'] for a in alarms)})" if alarms else "0",
                f"{run['cpu_seconds']:.0f}" if run["cpu_seconds"] is not None else "-",
            ])  # fmt: skip
    return markdown_table(header, rows)


def _alarms(arms: Mapping[str, Any]) -> str:
    rows = [
        [f"`{run['name']}`", str(alarm["step"]), *(_word(alarm[k]) for k in ("name", "key")),
         _number(alarm["value"]), _number(alarm["threshold"]),
         *(_word(alarm[k]) for k in ("action", "message"))]
        for arm in arms.values() for run in arm["runs"] for alarm in run["alarms"]
    ]  # fmt: skip
    if not rows:
        return "None was raised."
    header = ["run", "step", "rule", "metric", "value", "threshold", "action", "message"]
    return markdown_table(header, rows)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _word(value: Any) -> str:
    return "-" if value is None else " ".join(str(value).split())


def _short(key: str) -> str:
    return key.split("/")[2].replace("_at_", "@")


def _set(key: str) -> str:
    return key.split("/")[1]


def _number(value: Any, signed: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _at(value: float | None, step: int | None) -> str:
    return "-" if value is None else f"{value:.3f} ({step})"


def _mean(mean: Mapping[str, Any] | None, signed: bool = False) -> str:
    if mean is None:
        return "-"
    text = _number(mean["value"], signed)
    return text if mean["half"] is None else f"{text} ± {mean['half']:.3f}"


def _tenths(pair: Sequence[Any] | None) -> str:
    """Two figures of a run, or two means of an arm."""
    if pair is None:
        return "-"
    values = [end["value"] if isinstance(end, Mapping) else end for end in pair]
    return f"{values[0]:.2f} -> {values[1]:.2f}"


def _span(steps: Sequence[int]) -> str:
    low, high = min(steps), max(steps)
    return str(low) if low == high else f"{low}-{high}"


def _plain(curve: Curve) -> dict[str, Any]:
    found = asdict(curve)
    if max(curve.runs) == 1:  # the band is the line
        del found["low"], found["high"]
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
