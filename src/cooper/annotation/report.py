"""What an annotation came to: one JSON object and one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cooper.annotation.agreement import STATUSES, Agreement, agreement_with_labels
from cooper.annotation.generation import Failure
from cooper.annotation.labelling import Outcome

_NAMED = 10  # references named on the terminal; all are in summary.json


def summarise(
    outcomes: Sequence[Outcome],
    *,
    failures: Sequence[Failure] = (),
    skipped: int = 0,
    first_skipped: str = "",
    **facts: Any,
) -> dict[str, Any]:
    """Count.

    Args:
        outcomes: all rows.
        failures: completions that could not be had.
        skipped: broken rows that were passed over.
        first_skipped: what was wrong with the first one.
        **facts: seconds and the like, taken over as they are.
    """
    labels = [outcome.label for outcome in outcomes]
    judged = [(o.rule, o.judge) for o in outcomes if o.judge is not None]
    agreement = Agreement()
    for rule, judge in judged:
        agreement.add(rule, judge)
    return {
        "rows": len(outcomes) + len(failures),
        "skipped": skipped,
        "first_skipped": first_skipped,
        "distinct": len({outcome.item.key for outcome in outcomes}),
        "kept": {"right": labels.count(True), "wrong": labels.count(False)},
        "dropped": dict(Counter(o.dropped for o in outcomes if o.dropped).most_common()),
        "no_completion": dict(Counter(failure.reason for failure in failures).most_common()),
        "rule": _statuses(outcome.rule.status.value for outcome in outcomes),
        "judge": _statuses(judge.status.value for _, judge in judged) if judged else None,
        "agreement": {
            "matrix": agreement.matrix(),
            "both_decided": agreement.decided,
            "raw": agreement.share,
            "kappa": agreement.kappa,
        }
        if judged
        else None,
        "judge_undecided": _reasons(judge.reason for _, judge in judged if not judge.decided),
        "rule_undecided": _reasons(o.rule.reason for o in outcomes if not o.rule.decided),
        "undecided_references": undecided_references(outcomes),
        "input_labels": _against_input(outcomes),
        **facts,
    }


def _statuses(found: Iterable[str]) -> dict[str, int]:
    counts = Counter(found)
    return {status.value: counts[status.value] for status in STATUSES}


def _reasons(found: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Kinds of reasons (what stands before a colon), with the number of rows and an example."""
    kinds: dict[str, dict[str, Any]] = {}
    for reason in found:
        kind = kinds.setdefault(reason.split(": ")[0], {"rows": 0, "first": reason})
        kind["rows"] += 1
    return dict(sorted(kinds.items(), key=lambda item: -item[1]["rows"]))


def undecided_references(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """References that the rule cannot read: each once, with its first row and how many there are.

    A verdict does not say in so many words on which side the rule failed; the reasons of the
    shipped verifiers do where it is the reference.
    """
    found: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        rule, item = outcome.rule, outcome.item
        if rule.decided or "reference" not in rule.reason:
            continue
        if item.reference in found:
            found[item.reference]["rows"] += 1
        else:
            found[item.reference] = {
                "where": item.where,
                "id": item.id,
                "reference": item.reference,
                "reason": rule.reason,
                "rows": 1,
            }
    return list(found.values())


def _against_input(outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """How far label, rule and judge agree with labels that the input brought."""
    known = [(o, o.item.label) for o in outcomes if o.item.label is not None]
    if not known:
        return None
    return {
        "rows": len(known),
        "label": agreement_with_labels((o.verdict, label) for o, label in known),
        "rule": agreement_with_labels((o.rule, label) for o, label in known),
        "judge": agreement_with_labels((o.judge, label) for o, label in known),
    }


def render(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print the table."""
    console = console or Console()
    table = Table(title="annotation", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    kept, rows = summary["kept"], summary["rows"]
    table.add_row("rows", str(rows))
    if summary["skipped"]:
        table.add_row("broken rows skipped", str(summary["skipped"]))
    if summary["distinct"] < rows:
        table.add_row("distinct completions", str(summary["distinct"]))
    table.add_section()
    table.add_row("kept", _of(sum(kept.values()), rows))
    table.add_row("  right", str(kept["right"]))
    table.add_row("  wrong", str(kept["wrong"]))
    lost = sum(summary["no_completion"].values())
    table.add_row("dropped", _of(sum(summary["dropped"].values()) + lost, rows))
    for reason, count in summary["dropped"].items():
        table.add_row(f"  {reason}", str(count))
    if lost:
        table.add_row("  no completion", str(lost))
    if known := summary["input_labels"]:
        table.add_section()
        table.add_row("rows with a label in the input", str(known["rows"]))
        for name in ("label", "rule", "judge"):
            if known[name]["decided"]:
                table.add_row(f"  {name} agrees with it", _share(known[name]["agree"]))
    console.print(table)
    if agreement := summary["agreement"]:
        console.print(_matrix(agreement))
    for kind in list(summary["judge_undecided"].values())[:_NAMED]:
        console.print(
            f"no verdict of the judge: {_rows(kind['rows'])}, the first: {kind['first']}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    references = summary["undecided_references"]
    for one in references[:_NAMED]:
        console.print(
            f"reference undecided: {one['where']}: {_short(one['reference'])}: {one['reason']} "
            f"({_rows(one['rows'])})",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if len(references) > _NAMED:
        console.print(
            f"... and {len(references) - _NAMED} more references, in summary.json", soft_wrap=True
        )


def _matrix(agreement: dict[str, Any]) -> Table:
    kappa = agreement["kappa"]
    title = (
        f"agreement {_share(agreement['raw'])} of {agreement['both_decided']} rows that both "
        f"decided, Cohen's kappa {'-' if kappa is None else f'{kappa:.3f}'}"
    )
    table = Table(title=title)
    table.add_column("rule \\ judge")
    for status in STATUSES:
        table.add_column(status.value, justify="right")
    for rule, counts in agreement["matrix"].items():
        table.add_row(rule, *(str(counts[status.value]) for status in STATUSES))
    return table


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _of(count: int, total: int) -> str:
    return f"{count} ({_share(count / total)})" if total else str(count)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
