"""From runs to figures: medians, ratios, README's tables, the figure, and the check."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
RESULTS, BASELINE = HERE / "results.json", HERE / "baseline.json"
README = HERE.parents[1] / "README.md"
BASE_PHASES = ("generate", "reference", "reward", "forward", "backward")
STAGE_2 = ("negatives", "reward-model update")
NOT_VARIED = ("base", "stage 2", "one base")  # parts without TRL beside them
WORSE = 1.2  # a ratio may grow by so much

Figures = dict[str, Any]


def of_kind(runs: list[Figures]) -> Figures:
    """Medians over the steps of all processes of one kind."""
    rows = [row for run in runs for row in run["rows"]]

    def middle(values: Iterable[float]) -> float:
        return round(median(values), 4)

    found: Figures = {
        "seconds": {
            name: middle(row["seconds"].get(name, 0.0) for row in rows)
            for name in rows[0]["seconds"]
        },
        "us_per_token": middle(1e6 * row["seconds"]["step"] / row["tokens"] for row in rows),
        "peak_gib": middle(run["peak_gib"] for run in runs),
        **{key: middle(row[key] for row in rows) for key in rows[0] if key in _COUNTS},
    }
    if "floor" in rows[0]:
        found["floor"] = {
            name: middle(row["floor"][name] for row in rows) for name in rows[0]["floor"]
        }
        found["to_floor"] = {
            "step": middle(_to_floor(row, BASE_PHASES, whole=True) for row in rows),
            **{name: middle(_to_floor(row, [name]) for row in rows) for name in rows[0]["floor"]},
        }
        if STAGE_2[0] in rows[0]["floor"]:
            found["to_floor"]["stage 2"] = middle(_to_floor(row, STAGE_2) for row in rows)
            found["stage_2_share"] = middle(
                sum(row["seconds"][name] for name in STAGE_2) / row["seconds"]["step"]
                for row in rows
            )
    return found


_COUNTS = ("tokens", "longest", "prompts", "pairs", "gflops")


def _to_floor(row: Figures, names: Iterable[str], whole: bool = False) -> float:
    """Seconds of some phases, or of the whole step without stage 2, to their floor."""
    taken = sum(row["seconds"][name] for name in names)
    if whole:
        taken = row["seconds"]["step"] - sum(row["seconds"].get(name, 0.0) for name in STAGE_2)
    return taken / sum(row["floor"][name] for name in names)


def of_case(kinds: dict[str, list[Figures]]) -> Figures:
    """All kinds of one case, and TRL's figures over ours."""
    found = {kind: of_kind(runs) for kind, runs in kinds.items()}
    case = next(iter(kinds.values()))[0]["case"]
    result: Figures = {"case": case, **found}
    if "TRL" in found and "ours" in found:
        ours, peer = found["ours"], found["TRL"]
        result["times_faster"] = {
            name: round(peer["seconds"][name] / ours["seconds"][name], 3)
            for name in (*BASE_PHASES, "step")
        }
        result["times_faster"]["per token"] = round(peer["us_per_token"] / ours["us_per_token"], 3)
        result["memory"] = round(ours["peak_gib"] / peer["peak_gib"], 3)
    return result


def of_one_base(kinds: dict[str, list[Figures]]) -> Figures:
    """What negatives add to a step on one base, written after the rollouts and among them.

    The same seeds draw the same rollouts and negatives in each kind, so that steps are compared one
    by one: sampling and negatives, less the sampling of a run without stage 2.
    """
    rows = {kind: [row for run in runs for row in run["rows"]] for kind, runs in kinds.items()}
    without, *both = rows

    def written(row: Figures) -> float:
        return row["seconds"]["generate"] + row["seconds"].get("negatives", 0.0)

    found: Figures = {"case": kinds[without][0]["case"]}
    for kind in rows:
        found[kind] = {
            "step": round(median(row["seconds"]["step"] for row in rows[kind]), 4),
            "decode_steps": median(row["decode_steps"] for row in rows[kind]),
        }
    for kind in both:
        for row, other in zip(rows[kind], rows[without], strict=True):
            assert row["tokens"] == other["tokens"], "the kinds drew apart"
        added = [
            written(row) - written(other)
            for row, other in zip(rows[kind], rows[without], strict=True)
        ]
        found[kind]["negatives_add"] = round(median(added), 4)
        found[kind]["all"] = [round(seconds, 3) for seconds in added]
    found["floor"] = round(median(row["floor"]["negatives"] for row in rows[both[0]]), 4)
    return found


def ratios(results: Figures) -> dict[str, float]:
    """What the check compares; less is better."""
    base = results["base"]["step"]
    return {
        "our step to TRL's, per token": round(1 / base["times_faster"]["per token"], 4),
        "our step to its floor": base["ours"]["to_floor"]["step"],
        "our peak memory to TRL's": base["memory"],
        "stage 2 to its floor": base["ours with stage 2"]["to_floor"]["stage 2"],
    }


def worse(now: dict[str, float], before: dict[str, float]) -> list[str]:
    """One line for each ratio that has grown too much."""
    return [
        f"{name}: {now[name]:.3f}, and {value:.3f} in baseline.json; at most {WORSE:g} times that"
        for name, value in before.items()
        if now[name] > WORSE * value
    ]


def check(results: Figures) -> None:
    """Compare with the baseline.

    Raises:
        SystemExit: with the lines of :func:`worse`.
    """
    now, before = ratios(results), json.loads(BASELINE.read_text())
    for name, value in before.items():
        print(f"{name}: {now[name]:.3f} (baseline {value:.3f})")
    if lines := worse(now, before):
        raise SystemExit("\n".join(lines))


def keep(results: Figures, environment: Figures) -> None:
    """Put what was measured beside what was measured before."""
    whole = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part, found in results.items():
        for case in found.values():
            case["measured"] = environment
        whole[part] = found
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n")
    if "base" in results:
        BASELINE.write_text(json.dumps(ratios(whole), indent=1) + "\n")


def one_base(found: Figures) -> str:
    """README's sentences on negatives among the rollouts."""
    without, after, joined = (
        found[f"one base{more}"] for more in ("", ", negatives after", ", negatives joined")
    )
    text = (
        f"On one base (`model=shared`) the assistant's negatives add {after['negatives_add']:.2f} s"
        f" to such a step written after the rollouts and {joined['negatives_add']:.2f} s written "
        f"among them (floor {found['floor']:.2f} s); forwards that decode a token: "
        f"{without['decode_steps']:.0f} for the rollouts alone, {after['decode_steps']:.0f} and "
        f"{joined['decode_steps']:.0f} with negatives."
    )
    return textwrap.fill(text, 120)


def tables(results: Figures) -> str:
    """README's tables."""
    base = results["base"]["step"]
    ours, peer, both = base["ours"], base["TRL"], base["ours with stage 2"]
    lines = ["| CPU seconds a step | TRL | cooper | floor | times floor |", "| --- " * 5 + "|"]
    for name in BASE_PHASES:
        lines.append(
            f"| {name} | {peer['seconds'][name]:.2f} | {ours['seconds'][name]:.2f} "
            f"| {ours['floor'][name]:.2f} | {ours['to_floor'][name]:.2f} |"
        )
    lines.append(
        f"| **step** | **{peer['seconds']['step']:.1f}** | **{ours['seconds']['step']:.2f}** "
        f"| **{sum(ours['floor'].values()):.2f}** | **{ours['to_floor']['step']:.2f}** |"
    )
    lines.append(
        f"| microseconds a completion token | {peer['us_per_token']:.0f} "
        f"| {ours['us_per_token']:.0f} | | |"
    )
    lines.append(f"| peak memory, GiB | {peer['peak_gib']:.2f} | {ours['peak_gib']:.2f} | | |")
    for name in STAGE_2:
        lines.append(
            f"| {name} ({both['pairs']:.0f} pairs) | | {both['seconds'][name]:.2f} "
            f"| {both['floor'][name]:.2f} | {both['to_floor'][name]:.2f} |"
        )
    if "stage 2" in results:
        shares = ", ".join(
            f"{100 * case['ours with stage 2']['stage_2_share']:.0f} % (G {size})"
            for size, case in results["stage 2"].items()
        )
        lines += ["", f"Stage 2's share of the step, 16 problems: {shares}."]
    if "one base" in results:
        lines += ["", one_base(results["one base"]["step"])]
    rows = [
        f"| {part} | {name} | {case['TRL']['seconds']['step']:.1f} "
        f"| {case['ours']['seconds']['step']:.2f} | {case['times_faster']['step']:.1f} "
        f"| {case['times_faster']['per token']:.1f} | {case['memory']:.2f} |"
        for part, cases in results.items()
        if part not in NOT_VARIED
        for name, case in cases.items()
    ]
    if rows:
        lines += [
            "",
            "| varied | value | TRL, s | cooper, s | times faster | a token | memory to TRL's |",
            "| --- " * 7 + "|",
            *rows,
        ]
    return "\n".join(lines)


_PLACE = re.compile(r"(<!-- speed: begin -->\n).*?(<!-- speed: end -->)", re.DOTALL)


def with_tables(readme: str, results: Figures) -> str:
    """README with its tables made anew."""
    return _PLACE.sub(lambda found: f"{found[1]}{tables(results)}\n{found[2]}", readme)


def write_tables() -> None:
    """Into README, and the figure beside results.json."""
    import figure

    results = json.loads(RESULTS.read_text())
    README.write_text(with_tables(README.read_text(), results))
    figure.draw(results, HERE / "results.png")
