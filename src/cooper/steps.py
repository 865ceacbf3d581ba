"""Where the steps of a completion stand."""

from __future__ import annotations

import re

BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


def split_steps(completion: str) -> list[tuple[int, int]]:
    """Spans of a completion's steps, which blank lines part: first character, one behind the last.

    An empty completion has one step, the empty one.
    """
    steps, start = [], 0
    for found in [*BLANK_LINE.finditer(completion), None]:
        stop = found.start() if found else len(completion)
        text = completion[start:stop]
        if text.strip():
            steps.append((start, start + len(text.rstrip())))
        start = found.end() if found else stop
    return steps or [(0, len(completion))]
