"""A step of ours beside TRL's on the same work, and beside its own floor.

    python benchmarks/speed                  # everything, about an hour of CPU
    python benchmarks/speed --only base      # the step, stage 2: ten minutes
    python benchmarks/speed --only "one base"  # negatives after the rollouts, and among them
    python benchmarks/speed --table          # README's tables from results.json
    python benchmarks/speed --check          # fails where a ratio is 20 % worse than baseline.json

Every figure is of CPU seconds of one thread, by fresh processes in turn, ours and TRL's; medians
over steps after the first and over repetitions. See cases.py for the work, floor.py for the floor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import summary  # noqa: E402
from cases import BASE, SCALING, Case, write  # noqa: E402

from cooper.environment import environment  # noqa: E402
from cooper.progress import progress  # noqa: E402

KINDS = ("ours", "ours with stage 2", "TRL")
ONE_BASE = ("one base", "one base, negatives after", "one base, negatives joined")


def alone(kind: str, case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """Run one kind in a process of its own."""
    given = json.dumps([kind, asdict(case), str(folder), seed])
    done = subprocess.run(
        [sys.executable, str(HERE), "--run", given],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{kind} failed on {case}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_here(given: str) -> None:
    """What the process of :func:`alone` does."""
    kind, sizes, folder, seed = json.loads(given)
    case = Case(**sizes)
    if kind == "TRL":
        import peer

        with tempfile.TemporaryDirectory() as scratch:
            found = peer.run(case, Path(folder), Path(scratch), seed)
    else:
        import ours

        found = ours.run(case, Path(folder), kind, seed)
    print(json.dumps(found))


def plan(only: str | None, repeat: int) -> Iterator[tuple[str, str, Case, str, int]]:
    """Part, name, case, kind and seed of every run, kinds in turn."""
    if only in (None, "base"):
        for seed in range(repeat):
            for kind in KINDS:
                yield "base", "step", BASE, kind, seed
    if only in (None, "stage 2"):
        for size in (8, 16, 32):
            yield "stage 2", str(size), Case(group_size=size, steps=2), "ours with stage 2", 0
    if only in (None, "one base"):
        for seed in range(repeat):
            for kind in ONE_BASE:
                yield "one base", "step", BASE, kind, seed
    for part, cases in SCALING.items():
        if only in (None, part):
            for name, case in cases.items():
                for kind in ("ours", "TRL"):
                    yield part, name, case, kind, 0


def measure(only: str | None, repeat: int) -> dict[str, Any]:
    """Run what is asked for, and sum it up."""
    todo = list(plan(only, repeat))
    found: dict[str, dict[str, dict[str, list[Any]]]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        progress("speed", len(todo), "run") as bar,
    ):
        folders: dict[Case, Path] = {}
        for part, label, case, kind, seed in todo:
            if case not in folders:
                folders[case] = Path(name) / str(len(folders))
                write(case, folders[case])
            result = alone(kind, case, folders[case], seed)
            found.setdefault(part, {}).setdefault(label, {}).setdefault(kind, []).append(result)
            bar.advance(note=f"{part} {label} {kind}")
    return {
        part: {
            label: (summary.of_one_base if part == "one base" else summary.of_case)(kinds)
            for label, kinds in labels.items()
        }
        for part, labels in found.items()
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/speed", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parts = ["base", "stage 2", "one base", *SCALING]
    parser.add_argument("--only", choices=parts, help="measure one part, and keep the others")
    parser.add_argument(
        "--repeat", type=int, default=3, help="processes of each kind (base, one base)"
    )
    parser.add_argument("--table", action="store_true", help="write README's tables and the figure")
    parser.add_argument("--check", action="store_true", help="measure the base and compare")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run_here(given.run)
    elif given.check:
        summary.check(measure("base", 1))
    elif given.table:
        summary.write_tables()
    else:
        where = {**environment(), "trl": version("trl"), "threads": 1, "cpu": cpu()}
        summary.keep(measure(given.only, given.repeat), where)
        summary.write_tables()


def cpu() -> str:
    """The processor's name, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


if __name__ == "__main__":
    main()
