"""Run folders as they are found: finished, ended before their time, or still being written."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooper.errors import DataError
from cooper.run_folder import RunFolder

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        name: the folder's path below the one that was searched.
        folder: where it stands.
        config: the resolved configuration; empty when it cannot be read.
        rows: of ``metrics.jsonl``, by step.
        alarms: of ``alarms.jsonl``, in their order.
        summary: of ``summary.json``, when it describes these rows; else empty.
        state: finished, stopped, interrupted or failed, as the run says; killed: it ended without
            a word; running: a process is at work there.
        commit: of the code that ran last, as far as it is known.
        notes: what could not be read.
    """

    name: str
    folder: RunFolder
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    summary: dict[str, Any]
    state: str
    commit: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """The last step that was written down."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def max_steps(self) -> int | None:
        """The length that was asked for."""
        trainer = self.config.get("trainer")
        length = trainer.get("max_steps") if isinstance(trainer, dict) else None
        return length if isinstance(length, int) else None


def series(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric; steps without it are left out."""
    points = [(row["step"], row[key]) for row in rows if is_number(row.get(key))]
    return [p[0] for p in points], [p[1] for p in points]


def find_runs(places: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Read every run in or below some folders.

    Args:
        places: folders; a run below two of them is read once.

    Returns:
        the runs in the natural order of their paths; the folders that hold something else.

    Raises:
        DataError: one is no folder, or there is no run at all.
    """
    runs: dict[Path, Run] = {}
    others: list[str] = []
    for place in places:
        if not place.is_dir():
            raise DataError(f"{place}: no such folder; give the folder of a run or of a sweep")
        for path in _candidates(place):
            below = path.relative_to(place).as_posix()
            top = place.resolve().name
            name = top if below == "." else below if len(places) == 1 else f"{top}/{below}"
            if path.resolve() not in runs:
                run = read_run(path, name)
                if run is None:
                    others.append(name)
                else:
                    runs[path.resolve()] = run
    if not runs:
        given = ", ".join(map(str, places))
        found = f"; {', '.join(others[:3])}: not of cooper-train" if others else ""
        raise DataError(
            f"{given}: no run here or below (a folder with config.yaml or metrics.jsonl){found}; "
            "give the folder of a run or of a sweep"
        )
    return sorted(runs.values(), key=lambda run: natural(run.name)), others


def natural(text: str) -> list[Any]:
    """A sorting key that puts 9-... before 10-..., as people do."""
    return [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", text)]


def _candidates(place: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(place):
        # Hidden folders are what a killed process left half made.
        below[:] = sorted((name for name in below if not name.startswith(".")), key=natural)
        if "metrics.jsonl" in files:
            below.clear()  # what a run holds is no run
        if "metrics.jsonl" in files or "config.yaml" in files:
            yield Path(folder)


def read_run(path: Path, name: str) -> Run | None:
    """Read one run folder; None when another program has written it.

    What cannot be read is noted and taken as absent, since the rest of a damaged run still counts.
    """
    folder = RunFolder(path)
    running = folder.in_use()
    notes: list[str] = []
    try:
        config = folder.read_config()
    except DataError as error:
        config = {}
        notes.append(f"config.yaml{str(error).removeprefix(str(folder.config))}")
    if not config and not notes:
        notes.append("no config.yaml" if not folder.config.is_file() else "config.yaml is empty")
    if config and "policy" not in config:
        return None
    rows = {row["step"]: row for row in _rows(folder.metrics, notes)}
    alarms = _rows(folder.alarms, notes)
    summary = folder.read_summary()
    last = max(rows, default=0)
    # A run that was resumed and then killed still has the summary of its earlier end.
    if running or summary.get("steps") != last:
        summary = {}
    state = "running" if running else str(summary.get("status", "killed"))
    commit = folder.read_environment().get("commit")
    return Run(
        name=name,
        folder=folder,
        config=config,
        rows=[rows[step] for step in sorted(rows)],
        alarms=alarms,
        summary=summary,
        state=state,
        commit=commit if isinstance(commit, str) else None,
        notes=tuple(notes),
    )


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The objects with a step; the last line may be cut by a kill, or half written right now."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif number < len(lines):
            notes.append(f"{path.name}, line {number} of {len(lines)}: no object with a step")
    return rows


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)
