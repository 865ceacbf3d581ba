"""Public names and signatures stay as they are written down, until someone means to change them."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_public_names_and_signatures_are_those_written_down() -> None:
    # In a process of its own: what the tests hook into imports would show in signatures.
    found = subprocess.run(
        [sys.executable, str(TESTS / "public_api.py")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    written = (TESTS / "public_api.txt").read_text("utf-8")
    changes = difflib.unified_diff(
        written.splitlines(), found.splitlines(), "written down", "now", lineterm="", n=0
    )
    assert found == written, (
        "the public interface has changed; if that is meant: python tests/public_api.py --write, "
        "and a line in CHANGELOG.md\n" + "\n".join(changes)
    )
