"""Tables of ``cooper-eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cooper.report.markdown import markdown_table


def columns(samples: int) -> dict[str, str]:
    """Figures of a set by their keys, with their headings."""
    passes = sorted({*(2**i for i in range(samples.bit_length()) if 2**i <= samples), samples})
    return {
        "problems": "problems",
        f"avg_at_{samples}": f"avg@{samples}",
        **{f"pass_at_{k}": f"pass@{k}" for k in passes if k > 1},
        f"maj_at_{samples}": f"maj@{samples}",
        "greedy": "greedy",
        "truncated": "truncated",
        "undecided": "undecided",
        "mean_tokens": "tokens",
    }


def cell(figures: Mapping[str, Any], key: str) -> str:
    """One figure as text: shares in percent."""
    value = figures.get(key)
    if value is None:
        return "-"
    if key in ("problems", "mean_tokens"):
        return f"{value:.0f}"
    text = f"{100 * value:.2f}"
    if key.startswith("avg_at_") and figures.get("interval_95"):
        low, high = figures["interval_95"]
        text += f" [{100 * low:.2f}, {100 * high:.2f}]"
    return text


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: one row a set, and the mean over the sets."""
    keys = columns(results["samples"])
    rows = [
        [name, *(cell(figures, key) for key in keys)] for name, figures in results["sets"].items()
    ]
    if len(rows) > 1:
        rows.append(["mean", *(cell(results["mean"], key) for key in keys)])
    return ["set", *keys.values()], rows


def narrow(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows for a screen of 80 columns."""
    k = results["samples"]
    heading = [
        "set", f"avg@{k}", "95 %", f"pass@{k}", f"maj@{k}", "greedy", "cut", "undec.", "tokens",
    ]  # fmt: skip
    keys = (f"pass_at_{k}", f"maj_at_{k}", "greedy", "truncated", "undecided")
    several = {"mean": results["mean"]} if len(results["sets"]) > 1 else {}
    rows: list[list[str]] = []
    for name, figures in {**results["sets"], **several}.items():
        between = figures.get("interval_95")
        rows.append(
            [
                name,
                f"{100 * figures[f'avg_at_{k}']:.1f}",
                f"{100 * between[0]:.1f}-{100 * between[1]:.1f}" if between else "-",
                *("-" if figures.get(k) is None else f"{100 * figures[k]:.1f}" for k in keys),
                f"{figures['mean_tokens']:.0f}",
            ]
        )
    return heading, rows


def markdown(results: Mapping[str, Any]) -> str:
    """The report of one model."""
    heading, rows = table(results)
    k = results["samples"]
    return (
        f"# {results['model']}\n\n"
        f"Percent; {k} samples a problem at temperature {results['temperature']}, top-p "
        f"{results['top_p']}, at most {results['max_new_tokens']} tokens. avg@{k}: share of the "
        "samples that are right, in brackets its 95 % interval over problems "
        f"({results['bootstrap']} bootstrap resamples). pass@k: chance that one of k is right, "
        f"without bias (arXiv 2107.03374). maj@{k}: the most frequent answer is right. truncated: "
        "samples cut at the length limit. undecided: samples that the verifier could not judge; "
        "they count as not right. tokens: mean length of a sample.\n\n"
        + markdown_table(heading, rows)
    )


def side_by_side(results: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Several models in the paper's form: a row each, avg@k of each set, and their mean.

    Args:
        results: by the name of the row.
    """
    sets: list[str] = []
    for found in results.values():
        sets += [name for name in found["sets"] if name not in sets]
    rows: list[list[str]] = []
    for label, found in results.items():
        key = f"avg_at_{found['samples']}"
        shares = [found["sets"].get(name, {}).get(key) for name in sets]
        there: Sequence[float] = [share for share in shares if share is not None]
        # A mean over other sets than its neighbours' would say nothing.
        mean = sum(there) / len(there) if len(there) == len(sets) else None
        rows.append([label, *("-" if s is None else f"{100 * s:.2f}" for s in (*shares, mean))])
    return ["model", *sets, "mean"], rows


def unlike(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What else than the model sets the rows of :func:`side_by_side` apart.

    Args:
        results: by the name of the row.

    Returns:
        a line for each setting, and for each set of another number of problems; none: the rows
        can be compared.
    """
    told: dict[str, dict[str, Any]] = {}
    for label, found in results.items():
        for key in ("samples", "temperature", "top_p", "max_new_tokens"):
            told.setdefault(key, {})[label] = found.get(key)
        for name, figures in found["sets"].items():
            told.setdefault(f"problems of {name}", {})[label] = figures.get("problems")
    return [
        f"{key}: " + ", ".join(f"{value} ({label})" for label, value in values.items())
        for key, values in told.items()
        if len(set(values.values())) > 1
    ]
