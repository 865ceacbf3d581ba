"""What stands where in the folder of an annotation."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cooper.annotation.labelling import Outcome, plain_verdict
from cooper.files import write_atomically
from cooper.resumable import ResumableFolder

SHOWN = 200  # disagreements written out for reading; all are in dropped.jsonl
_LONG = 3000  # characters of a completion that are shown: METHOD.md's head and tail
_HEAD, _TAIL = 1000, 2000


class AnnotationFolder(ResumableFolder):
    """The files of one annotation.

    ``labelled.jsonl`` and ``labelled.parquet`` (the rows with a label), ``dropped.jsonl`` (those
    without, and why), ``disagreements.md``, ``summary.json``, ``config.yaml``,
    ``environment.json``; and what makes it resumable: ``settings.json``, ``verdicts.journal``,
    ``completions.journal``.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "verdicts")

    @property
    def labelled(self) -> Path:
        """The labelled data set, one JSON object a line, in the order of the input."""
        return self.path / "labelled.jsonl"

    @property
    def parquet(self) -> Path:
        """The same in the form of the authors' published data."""
        return self.path / "labelled.parquet"

    @property
    def dropped(self) -> Path:
        """Rows without a label."""
        return self.path / "dropped.jsonl"

    @property
    def disagreements(self) -> Path:
        """Rows on which rule and judge disagree, to be read."""
        return self.path / "disagreements.md"

    @property
    def summary(self) -> Path:
        """Counts and agreement."""
        return self.path / "summary.json"

    def write(
        self, outcomes: Sequence[Outcome], lost: Sequence[Mapping[str, Any]], summary: Any
    ) -> None:
        """Write all results; each file is there whole or not at all.

        Args:
            outcomes: in the order of the input.
            lost: rows for ``dropped.jsonl`` that never got to a verdict.
            summary: of the whole; written last, so that it says that the rest is there.
        """
        kept = [outcome for outcome in outcomes if outcome.label is not None]
        dropped = [o for o in outcomes if o.label is None]
        write_atomically(self.labelled, _lines(labelled_row(outcome) for outcome in kept))
        write_atomically(self.parquet, _parquet(kept))
        rows = [*({**labelled_row(o), "dropped": o.dropped} for o in dropped), *lost]
        write_atomically(self.dropped, _lines(rows))
        differing = [o for o in outcomes if o.differing]
        text = disagreements(differing, total=len(outcomes))
        write_atomically(self.disagreements, text.encode("utf-8", "replace"))
        write_atomically(self.summary, json.dumps(summary, indent=1).encode())


def labelled_row(outcome: Outcome) -> dict[str, Any]:
    """The columns of a row: the label, and who said what and why."""
    item = outcome.item
    return {
        "id": item.id,
        "question": item.question,
        "reference_answer": item.reference,
        "completion": item.completion,
        "label": None if outcome.label is None else int(outcome.label),
        "source": item.source,
        "rule": plain_verdict(outcome.rule),
        "judge": None if outcome.judge is None else plain_verdict(outcome.judge),
    }


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(_line(row) for row in rows)


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair; as an escape it is still JSON
        return json.dumps(row).encode() + b"\n"


def _parquet(kept: Sequence[Outcome]) -> bytes:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    def text(value: str) -> str:
        return value.encode("utf-8", "replace").decode()  # Parquet's texts are UTF-8

    texts = {
        "id": [text(o.item.id) for o in kept],
        "question": [text(o.item.question) for o in kept],
        "reference_answer": [text(o.item.reference) for o in kept],
        "completion": [text(o.item.completion) for o in kept],
        "source": [text(o.item.source) for o in kept],
    }
    # By name, since a table of no rows has to have types as well.
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    columns["label"] = pa.array([int(o.label or 0) for o in kept], pa.int64())
    order = ("id", "question", "reference_answer", "completion", "label", "source")
    sink = io.BytesIO()
    write_table(pa.table({name: columns[name] for name in order}), sink)
    return sink.getvalue()


def disagreements(differing: Sequence[Outcome], total: int) -> str:
    """Rows on which rule and judge disagree, as Markdown for people.

    Args:
        differing: those rows.
        total: rows in all.
    """
    lines = ["# Rule and judge disagree", ""]
    labelled = sum(outcome.label is not None for outcome in differing)
    lines.append(f"{len(differing)} of {total} rows; {labelled} of them have a label all the same.")
    if len(differing) > SHOWN:
        lines.append(f"The first {SHOWN} follow; all are in labelled.jsonl and dropped.jsonl.")
    for number, outcome in enumerate(differing[:SHOWN], start=1):
        item, judge = outcome.item, outcome.judge
        assert judge is not None
        lines += ["", f"## {number}. {' '.join(item.id.split())} ({item.where})", ""]
        lines.append(f"- rule: **{outcome.rule.status.value}**{_because(outcome.rule.reason)}")
        lines.append(f"- judge: **{judge.status.value}**{_because(judge.reason)}")
        for name, text in (
            ("question", item.question),
            ("reference answer", item.reference),
            ("answer that the rule read", outcome.rule.answer or ""),
            ("completion", item.completion),
        ):
            lines += ["", f"{name}:", "", *_fenced(_shortened(text))]
    return "\n".join(lines) + "\n"


def _because(reason: str) -> str:
    return f", {' '.join(reason.split())}" if reason else ""


def _shortened(text: str) -> str:
    if len(text) <= _LONG:
        return text
    gap = len(text) - _HEAD - _TAIL
    return f"{text[:_HEAD]}\n[... {gap} characters left out ...]\n{text[-_TAIL:]}"


def _fenced(text: str) -> list[str]:
    """A block of text as it is, whatever Markdown it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [fence, text, fence]
