"""Tables and figures of ``cooper-eval-reward``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from cooper.evaluation.reward_quality import CALIBRATION_BINS, Scored
from cooper.report.markdown import markdown_table

matplotlib.use("agg")
from matplotlib import pyplot as plt
from torch import Tensor

# Okabe-Ito: told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#7F7F7F"

COLUMNS = {
    "n": "rows",
    "accuracy": "acc.",
    "precision": "prec.",
    "recall": "recall",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "AP",
    "ece": "ECE",
    "undecided": "undec.",
}


def cell(figures: Mapping[str, Any], name: str, intervals: Mapping[str, Any] | None = None) -> str:
    """One figure as text, with its interval."""
    value = figures.get(name)
    if value is None:
        return "-"
    if name == "n":
        return str(int(value))
    text = f"{value:.3f}"
    if intervals and name in intervals:
        low, high = intervals[name]
        text += f" [{low:.3f}, {high:.3f}]"
    return text


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = ["# Quality of scorers on labelled completions\n"]
    parts.append(
        "acc.: decided and as labelled, over all rows; prec.: right among the accepted; recall: "
        "accepted among the right (UNDECIDED is missed); AUROC and AP (average precision) of the "
        "scores (a verifier's: CORRECT 1, UNDECIDED 0.5, INCORRECT 0); ECE: expected calibration "
        f"error over {CALIBRATION_BINS} bins, of probabilities alone. In brackets: 95 % "
        f"bootstrap intervals over questions ({results['resamples']} resamples).\n"
    )
    header = ["scorer", *COLUMNS.values()]
    for name, data in results["sets"].items():
        skipped = f", {data['skipped']} skipped" if data["skipped"] else ""
        parts.append(f"## {name}\n\n{data['rows']} rows, {data['questions']} questions{skipped}\n")
        rows = [
            [scorer, *(cell(found["all"], key, found["intervals"]) for key in COLUMNS)]
            for scorer, found in data["scorers"].items()
        ]
        parts.append(markdown_table(header, rows) + "\n")
        for scorer, found in data["scorers"].items():
            if found["undecided_reasons"]:
                listed = "; ".join(f"{why}: {n}" for why, n in found["undecided_reasons"].items())
                parts.append(f"UNDECIDED by {scorer}: {listed}\n")
            for kind, slices in found["slices"].items():
                if slices:
                    lines = [
                        [part, *(cell(figures, key) for key in COLUMNS)]
                        for part, figures in slices.items()
                    ]
                    parts.append(f"### {scorer}, by {kind}\n")
                    parts.append(markdown_table([kind, *COLUMNS.values()], lines) + "\n")
    if results["attacks"]:
        parts.append("## Attacks: share accepted\n")
        parts.append(
            "Completions that show no right answer, and those (last rows) that show it in a way "
            "about which opinions differ. In brackets: 95 % Wilson intervals.\n"
        )
        scorers = list(next(iter(results["attacks"].values()))["accepted"])
        rows = [
            [
                attack,
                "wrong" if found["wrong"] else "policy",
                str(found["n"]),
                *(
                    f"{a['share']:.2f} [{a['low']:.2f}, {a['high']:.2f}]"
                    for a in found["accepted"].values()
                ),
                found["source"],
            ]
            for attack, found in results["attacks"].items()
        ]
        parts.append(markdown_table(["attack", "accepting is", "n", *scorers, "from"], rows) + "\n")
    return "\n".join(parts)


def draw_quality(
    path: Path, scored: Mapping[str, Scored], labels: Tensor, title: str
) -> list[Path]:
    """ROC, calibration and score histograms of one set on one page, as PNG and SVG."""
    count = len(scored)
    height = 4.0 + 2.1 * count
    figure = plt.figure(figsize=(11, height), layout="constrained")
    pages: Any = figure.subfigures(2, 1, height_ratios=[4.0, 2.1 * count])
    upper, lower = pages
    roc, calibration = upper.subplots(1, 2)
    colours = dict(zip(scored, _COLOURS * (count // len(_COLOURS) + 1), strict=False))
    roc.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":")
    for name, one in scored.items():
        false, true = _roc(one.scores, labels)
        roc.plot(false, true, color=colours[name], linewidth=2, label=name)
        if one.probabilities:
            x, y, sizes = _reliability(one.scores, labels)
            calibration.plot(x, y, color=colours[name], linewidth=1.5, alpha=0.7)
            calibration.scatter(x, y, s=sizes, color=colours[name], label=name, zorder=3)
    roc.set(xlabel="wrong ones accepted (share)", ylabel="right ones accepted (share)", title="ROC")
    roc.legend(loc="lower right", frameon=False)
    calibration.set(
        xlabel="score", ylabel="share right", title="calibration", xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )  # fmt: skip
    if any(one.probabilities for one in scored.values()):
        calibration.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":")
        calibration.legend(loc="upper left", frameon=False)
    else:
        calibration.text(0.5, 0.5, "verdicts are no probabilities", ha="center", color=_GREY)
    axes = lower.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    edges = [i / 20 for i in range(21)]
    for axis, (name, one) in zip(axes, scored.items(), strict=True):
        for label, colour, text in ((1, _COLOURS[0], "right"), (0, _COLOURS[1], "wrong")):
            values = one.scores[labels.bool() == bool(label)].tolist()
            axis.hist(values, bins=edges, color=colour, alpha=0.6, label=f"{text} ({len(values)})")
        axis.set(ylabel="rows", title=name)
        axis.legend(loc="upper center", frameon=False, ncols=2)
    verdicts = (
        ""
        if all(one.probabilities for one in scored.values())
        else (" (verdicts: INCORRECT 0, UNDECIDED 0.5, CORRECT 1)")
    )
    axes[-1].set_xlabel(f"score{verdicts}")
    figure.suptitle(title)
    return _save(figure, path)


def draw_attacks(path: Path, attacks: Mapping[str, Any]) -> list[Path]:
    """Share accepted by attack and scorer, with Wilson intervals, as PNG and SVG."""
    scorers = list(next(iter(attacks.values()))["accepted"])
    names = list(attacks)
    figure, axis = plt.subplots(
        figsize=(9, 1.3 + len(names) * (0.16 + 0.17 * len(scorers))), layout="constrained"
    )
    width = 0.8 / len(scorers)
    for place, scorer in enumerate(scorers):
        found = [attacks[name]["accepted"][scorer] for name in names]
        at = [row + (place - (len(scorers) - 1) / 2) * width for row in range(len(names))]
        shares = [f["share"] for f in found]
        spread = [
            [max(0.0, f["share"] - f["low"]) for f in found],
            [max(0.0, f["high"] - f["share"]) for f in found],
        ]
        axis.barh(
            at, shares, height=width * 0.9, color=_COLOURS[place % len(_COLOURS)], label=scorer,
            xerr=spread, error_kw={"ecolor": "#444444", "elinewidth": 1},
        )  # fmt: skip
    axis.set_yticks(range(len(names)), [
        name if attacks[name]["wrong"] else f"{name} (policy)" for name in names
    ])  # fmt: skip
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set(xlim=(0, 1.02), xlabel="share accepted")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=len(scorers))
    axis.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    plt.close(figure)
    return files


def _roc(scores: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """False and true positive rates at every threshold, from none accepted to all."""
    from torchmetrics.functional.classification import binary_roc

    if not 0 < int(labels.sum()) < len(labels):
        return [], []
    false, true, _ = binary_roc(scores, labels.long())
    return false.tolist(), true.tolist()


def _reliability(scores: Tensor, labels: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Mean score, share right and area of a dot for each bin that holds rows."""
    bins = (scores * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    x, y, sizes = [], [], []
    for number in range(CALIBRATION_BINS):
        inside = bins == number
        if bool(inside.any()):
            x.append(float(scores[inside].mean()))
            y.append(float(labels[inside].double().mean()))
            sizes.append(10 + 200 * float(inside.double().mean()))
    return x, y, sizes
