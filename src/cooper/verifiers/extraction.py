r"""Where a completion states its final answer.

Everything here runs in time linear in the text and copies none of it but the answer, so that it
is safe inside the training process: a policy under reinforcement learning writes a megabyte of
"{" sooner or later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "MAX_ANSWER_CHARS",
    "REGION_CHARS",
    "Extracted",
    "all_boxes",
    "bare",
    "boxed",
    "extract_answer",
    "last_boxes",
    "stated",
    "unwrap",
]

# Final answers stand at the end. What lies further back than this is not looked at, which bounds
# the memory of the brace stack too.
REGION_CHARS = 200_000

# No answer of the usual data sets is a tenth as long. Longer ones are not compared.
MAX_ANSWER_CHARS = 2_000


@dataclass(frozen=True)
class Extracted:
    """An answer and where it stands: ``completion[span[0]:span[1]] == text``."""

    text: str
    span: tuple[int, int]  # characters (code points) of the completion


# A backslash and the sign after it are one token, so that \{ is no brace. A doubled backslash,
# as models write it that were trained on JSON, still makes a box.
_BOX_TOKEN = re.compile(r"\\\\?(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)

# Longest first. "A:" opens a line; the others may stand anywhere.
_CUE = re.compile(
    r"""
      \#\#\#\#                                     # GSM8K
    | <answer> | \[ANSWER\]
    | ^[ \t*]{0,4} A [ \t]? : (?![A-Za-z])
    | ^[ \t]* [\#*]{1,4} [ ]? (?:final[ ])? answer [*:]{0,3} [ \t]* $      # a heading
    | \b (?:final[ ])? answer (?:[ ]to[ ](?:the|this)[ ](?:problem|question))?
      [*]{0,2} [ ]? (?: is\b | : | = ) [*]{0,2} :?
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)

# An answer ends with its line, with a closing tag, or with its sentence: a full stop before white
# space, which leaves 3.14 whole.
_END = re.compile(r"\n|</answer>|\[/ANSWER\]|[.;!](?=[*\"')]{0,3}(?:\s|$))", re.IGNORECASE)
_NEXT_LINE = re.compile(r"[ \t*]*\n\s{0,8}(?=\S)")

# Signs around a stated answer that are no part of it: "**Answer:** 5".
_CUE_EDGE = " \t\r*:"

# A completion that is nothing but an answer: one short line with no word of three letters outside
# a LaTeX command.
_BARE_CHARS = 200
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_NO_WORD = re.compile(
    r"\\[A-Za-z]*(?:text|rm|mbox)[a-z]*\s?\{[^{}]*\}|\\(?:begin|end)\s?\{[a-z]*\}(?:\{[clr| ]*\})?"
    r"|\b(?:arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|exp|sqrt|pi|infty|and|gcd|mod|or"
    r"|factorial|percent(?:age)?|pct)(?![A-Za-z])"
)
_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)")  # one that did not close: cut off
_DIGIT_OR_MATH = re.compile(r"[0-9$\\]|[A-Za-z)]\s*[-+*/^=<>!(]\s*[A-Za-z(=]|[A-Za-z]!")

_PAIRS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"))


def boxed(text: str) -> Extracted | None:
    r"""Find the last ``\boxed{...}`` or ``\fbox{...}`` whose braces close.

    A box that holds nothing but another box gives the inner one's content.

    Args:
        text: any text.

    Returns:
        The content without surrounding white space, or None.
    """
    found = _boxes(text)
    return None if not found else _trimmed(text, *found[-1][0])


def last_boxes(text: str) -> list[Extracted]:
    r"""Find the boxes that stand together at the end: ``\boxed{1} and \boxed{2}``.

    They do where at most a few words part them, with a comma, "and", "or" or nothing among these,
    and no sentence ends.

    Args:
        text: any text.

    Returns:
        The boxes in order; the last one alone where no other stands with it.
    """
    boxes = _boxes(text)[-_MAX_BOXES:]
    first = len(boxes) - 1
    while first > 0 and _stand_together(text[boxes[first - 1][1][1] : boxes[first][1][0]]):
        first -= 1
    return [_trimmed(text, *content) for content, _ in boxes[max(first, 0) :]]


def all_boxes(text: str) -> list[Extracted]:
    r"""Find every ``\boxed{...}`` or ``\fbox{...}`` that closes and lies in no other one, in order.

    Args:
        text: any text.
    """
    return [_trimmed(text, *content) for content, _ in _boxes(text)]


_MAX_BOXES = 16
_MAX_BETWEEN = 90  # characters between boxes that stand together
_LINK = re.compile(r"[,;&+]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
_BREAK = re.compile(r"[.!?]\s|\n\s*\n|[0-9]")


def _stand_together(between: str) -> bool:
    if len(between) > _MAX_BETWEEN or _BREAK.search(between):
        return False
    return bool(_LINK.search(between)) or not re.search(r"[A-Za-z]", _COMMANDS.sub("", between))


_COMMANDS = re.compile(r"\\[A-Za-z]+")


def _boxes(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Content and outer span of every box that closes and lies in no other one, in order."""
    starts = [at for at in (text.find("\\boxed"), text.find("\\fbox")) if at >= 0]
    if not starts:
        return []
    open_braces: list[tuple[int, int]] = []  # (start of the token, start of the content; -1: plain)
    boxes: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for token in _BOX_TOKEN.finditer(text, min(starts)):
        sign = token.group()
        if sign == "{":
            open_braces.append((token.start(), -1))
        elif sign == "}":
            if not open_braces:
                continue
            start, content = open_braces.pop()
            if content < 0:
                continue
            inner = (content, token.start())
            while boxes and boxes[-1][0][0] >= content:
                within, outer = boxes.pop()
                holds_only_it = (
                    not text[content : outer[0]].strip()
                    and not text[outer[1] : token.start()].strip()
                )
                if holds_only_it:
                    inner = within
            boxes.append((inner, (start, token.end())))
        elif sign.endswith("{") and len(sign) > 2:
            open_braces.append((token.start(), token.end()))
    return boxes


def stated(text: str) -> Extracted | None:
    """Find the last stated answer: "The answer is X", "#### X", "A: X", "<answer>X</answer>".

    Args:
        text: any text.

    Returns:
        What follows the cue up to the end of its line or sentence, or None.
    """
    for cue_end in reversed([cue.end() for cue in _CUE.finditer(text)]):
        start = cue_end
        if line := _NEXT_LINE.match(text, start, start + 64):
            start = line.end()  # "Final answer:" with the answer on the next line
        end = _END.search(text, start, start + MAX_ANSWER_CHARS + 1)
        stop = end.start() if end else min(len(text), start + MAX_ANSWER_CHARS + 1)
        if text[start:stop].strip(_CUE_EDGE):
            return _trimmed(text, start, stop, strip=_CUE_EDGE)
    return None


def bare(text: str) -> Extracted | None:
    """Take a text that is nothing but an answer: one short line of numbers or mathematics.

    Args:
        text: any text.

    Returns:
        The line, or None.
    """
    start = len(text) - len(text.lstrip())
    if start == len(text) or len(text.rstrip()) - start > _BARE_CHARS:
        return None
    line = text[start:].rstrip()
    words = _NO_WORD.sub(" ", line)
    if (
        "\n" in line
        or _BOX_COMMAND.search(line)
        or not _DIGIT_OR_MATH.search(line)
        or _WORD.search(words)
    ):
        return None
    return _trimmed(text, start, start + len(line))


def extract_answer(completion: str, allow_stated: bool = True) -> Extracted | None:
    r"""Find the final answer of a completion.

    A box wins over a stated answer wherever the two stand, since prompts ask for the box.

    Args:
        completion: any text. Of a huge one only the last 200 000 characters are looked at.
        allow_stated: whether "The answer is X" and its like count when there is no box.

    Returns:
        The answer with its span in `completion`, or None when no answer is given.
    """
    shift = max(0, len(completion) - REGION_CHARS)
    region = completion[shift:] if shift else completion
    found = boxed(region)
    if found is None and allow_stated:
        found = stated(region) or bare(region)
    if found is None or not found.text:
        return None
    start, end = found.span
    return Extracted(found.text, (start + shift, end + shift)) if shift else found


def unwrap(text: str) -> str:
    r"""Take off white space, a closing full stop, and one kind of delimiters after another.

    The delimiters are ``$...$``, ``$$...$$``, ``\(...\)``, ``\[...\]`` and ``**...**``; they go
    only when they enclose the whole text: ``$1$ or $2$`` stays as it is.
    """
    for _ in range(4):  # nesting deeper than this is no answer, and the loop stays bounded
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for left, right in _PAIRS:
            inner = text[len(left) : -len(right)]
            if (
                len(text) > len(left) + len(right)
                and text.startswith(left)
                and text.endswith(right)
                and left not in inner
                and right not in inner
                and not inner.endswith("\\")  # the last sign was \$, a dollar
            ):
                text = inner
                break
        else:
            break
    return text


def _trimmed(text: str, start: int, end: int, strip: str | None = None) -> Extracted:
    """Move both ends inwards over the signs of `strip` (white space when None)."""
    content = text[start:end]
    left = len(content) - len(content.lstrip(strip))
    content = content.strip(strip)
    return Extracted(content, (start + left, start + left + len(content)))
