"""``cooper-report``.

It takes folders, which a shell completes and expands, and reads no configuration of its own: so
its arguments are those of a common command, not Hydra's overrides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cooper.cli.errors import guarded

PROGRAM = "cooper-report"


def main() -> None:
    """Read the command line, write the report, end the process with its exit code."""
    given = _parser().parse_args()
    sys.exit(guarded(PROGRAM, lambda: report(given)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Figures and tables of a run or a sweep, from run folders alone: finished "
        "runs, killed ones, and those that are still going.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="of a run, or with runs below it"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: FOLDER/report)"
    )
    parser.add_argument(
        "--by", type=_keys, default=[], metavar="KEY,KEY",
        help="settings that make the arms (default: all in which runs differ, but the seed)",
    )  # fmt: skip
    parser.add_argument(
        "--seed-key", default="seed", metavar="KEY",
        help="setting that tells the runs of an arm apart (default: seed)",
    )  # fmt: skip
    return parser


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def report(given: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        CooperError: there is no run, or no place to write to.
    """
    from cooper.config.validate import check_writable
    from cooper.errors import ConfigError
    from cooper.report import find_runs, group, render_terminal, write_report

    folders: Sequence[Path] = [folder.expanduser() for folder in given.folders]
    if given.out is None and len(folders) > 1:
        raise ConfigError(f"--out: {len(folders)} folders are given; say where the report goes")
    out = given.out.expanduser() if given.out else folders[0] / "report"
    runs, others = find_runs(folders)
    arms = group(runs, given.seed_key, given.by)
    check_writable("--out", out)
    title = ", ".join(folder.resolve().name for folder in folders)
    found = write_report(arms, out, title, given.seed_key, others)
    render_terminal(found)
    print(f"report: {out / 'report.md'}")
    return 0


if __name__ == "__main__":
    main()
