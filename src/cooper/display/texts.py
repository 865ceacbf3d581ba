"""Texts made fit for a terminal: what a model writes is shown, never obeyed."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len

_NEWLINES = frozenset("\n\v\f\x85\u2028\u2029")
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_MARKS = 2  # combining marks a character may carry


def clean(text: str, limit: int = 2000) -> str:
    r"""Turn any text into one line without effect on a terminal.

    Line ends become ``↵``, other control characters their pictures (ESC is ``␛``), so that an
    escape sequence is read instead of obeyed. Invisible format characters, such as those that
    turn the writing direction, are left out; what has no known width becomes ``\ufffd``.

    Args:
        text: from a model or a data set.
        limit: characters that are looked at.
    """
    kept: list[str] = []
    marks = 0
    for char in text[:limit].replace("\r\n", "\n"):
        kind = unicodedata.category(char)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        if char in _NEWLINES:
            kept.append(" ↵ ")
        elif kind in ("Zs", "Zl", "Zp") or char == "\t":
            kept.append(" ")
        elif kind == "Cc":
            code = ord(char)
            kept.append(chr(0x2400 + code) if code < 32 else "\u2421" if code == 127 else "\ufffd")
        elif kind in ("Cs", "Co", "Cn"):
            kept.append("\ufffd")
        elif kind != "Cf" and marks <= _MARKS and not _selects_variation(char):
            kept.append(char)
    return "".join(kept).strip()


def _selects_variation(char: str) -> bool:
    """Such a character changes the width of the one before it in some terminals only."""
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def encodable(text: str, encoding: str) -> str:
    """Replace what an encoding lacks: a terminal need not be one for UTF-8.

    Args:
        text: to be written.
        encoding: of the terminal.
    """
    if encoding.lower().replace("-", "").startswith("utf"):
        return text
    return text.replace("…", "...").encode(encoding, "replace").decode(encoding)


def crop(text: str, width: int, left: bool = False) -> str:
    """Cut a text to a number of cells, with ``…`` where it was cut.

    Args:
        text: one line.
        width: cells.
        left: cut at the start: the end of a path says more.
    """
    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    chars, used = [], 1
    for char in reversed(text) if left else text:
        used += cell_len(char)
        if used > width:
            break
        chars.append(char)
    return "…" + "".join(reversed(chars)) if left else "".join(chars) + "…"


def wrap(text: str, width: int, lines: int) -> list[str]:
    """Break a text into lines of a number of cells; the last one that is left ends in ``…``.

    Args:
        text: one line, already :func:`clean`.
        width: cells a line, at least 1.
        lines: at most so many.
    """
    rows: list[str] = []
    rest = text
    while rest and len(rows) < lines:
        if len(rows) == lines - 1 or cell_len(rest) <= width:
            rows.append(crop(rest, width))
            break
        taken = used = 0
        for char in rest:
            used += cell_len(char)
            if used > width:
                break
            taken += 1
        space = rest.rfind(" ", 0, taken + 1)
        at = space if space > taken // 2 else max(taken, 1)
        rows.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return rows


def sparkline(values: Sequence[float | None], low: float, high: float, plain: bool = False) -> str:
    """Draw figures as a row of bars, one a figure; a missing one is a gap.

    Args:
        values: None or NaN where nothing was measured.
        low: value of the lowest bar.
        high: value of the highest bar.
        plain: use ASCII.
    """
    bars = _ASCII_BARS if plain else _BARS
    width = (high - low) or 1.0
    drawn = []
    for value in values:
        if value is None or not math.isfinite(value):
            drawn.append(" ")
            continue
        level = round((value - low) / width * (len(bars) - 1))
        drawn.append(bars[min(max(level, 0), len(bars) - 1)])
    return "".join(drawn)


def duration(seconds: float | None) -> str:
    """Write ``0:00:41``, ``12:03:00`` or ``3d 04:05``; an unknown one as ``-:--:--``."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--:--"
    minutes, second = divmod(max(round(seconds), 0), 60)
    hour, minute = divmod(minutes, 60)
    days, hours = divmod(hour, 24)
    return f"{days}d {hours:02}:{minute:02}" if days else f"{hour}:{minute:02}:{second:02}"
