r"""What the last sentence of a solution states, where no answer is marked.

"Therefore, she spends a total of 34 hours." Only a sentence that leaves no doubt gives an answer:
the value that it ends with, the only value that it holds, the only one in bold, or the one that
follows "a total of", "there are" and their like. Linear in the text, which is cut to its tail.
"""

from __future__ import annotations

import itertools
import re

TAIL_CHARS = 2_000
_SENTENCES_BACK = 3  # "I hope it is correct." may follow

# A value: bold text, a formula in its delimiters, or a plain number with currency and percent.
_BOLD = r"\*\*(?P<bold>[^*\n]{1,120})\*\*"
_FORMULA = (
    r"\$\$(?P<display>[^$]{1,400})\$\$"
    r"|(?<!\\)\$(?P<inline>(?:[^$\\\n]|\\.){1,400})(?<!\\)\$(?!\d)"
    r"|\\\((?P<round>.{1,400}?)\\\)"
    r"|\\\[(?P<square>.{1,400}?)\\\]"
)
_PLAIN = (
    r"(?<![\w.,\\^/])(?P<plain>[-+\u2212]?\s?(?:\\?[$\u20ac\u00a3]\s?)?"
    r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
    r"(?:\s?/\s?\d+)?(?:\s?(?:\\?%|\u00b0))?)(?![\w^]|[.,]\d)"
)
_VALUE = re.compile(f"{_BOLD}|{_FORMULA}|{_PLAIN}", re.DOTALL)
_HAS_VALUE = re.compile(r"\d|\\(?:pi|sqrt|infty|frac|varnothing|emptyset|begin)(?![a-z])")
# Ends a sentence: a sign before white space, or a line. Formulas are masked before.
_ENDS = re.compile(r"[.!?](?=[*\"')]{0,3}(?:\s|$))|\n")
_TURN = re.compile(r"<\|[a-z_]{2,30}\|>|</s>")  # a chat template's end of turn, decoded as text
_LINK = re.compile(r"[\s,;]*(?:(?:and|or)\s)?\s*", re.IGNORECASE)
# What may stand between the last value and the full stop: a few words of a unit.
_UNIT_WORDS = re.compile(r"\*{0,2}\s*(?:[A-Za-z]+(?:[ -][A-Za-z]+){0,4})?\s*[.!*\"')\s]*")
_SAYS_SO = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|becomes?|gives?|by|to|get|have|approximately|about"
    r"|exactly|only)|[=:\u2248])[\s*]*$",
    re.IGNORECASE,
)
_TOTAL = re.compile(
    r"\b(?:a total of|there (?:are|were|is|will be)|total (?:is|of)|leaves?|equals?)"
    r"\s+(?:exactly |only |about )?[*]{0,2}$",
    re.IGNORECASE,
)


_CUT_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")  # one that closes would have been the answer
_OPENS = re.compile(r"\s*(?:(?:therefore|thus|so|hence|in total|overall)\b,?\s*)?", re.IGNORECASE)
_IS_WHAT = re.compile(
    r"\*{0,2}\s+[a-z]+(?: [a-z]+){0,2} (?:is|are|were|will be|must be) [a-z]+ed\b"
)
_NEGATED = re.compile(
    r"\b(?:not|never|neither|nor|cannot|incorrect|wrong)\b|n['\u2019]t\b", re.IGNORECASE
)


def concluded(text: str) -> tuple[int, int] | None:
    """Find the value that the end of a solution states.

    Args:
        text: a completion, or an answer that is a whole sentence.

    Returns:
        Start and end of the value in `text`, delimiters left out; or None.
    """
    shift = max(0, len(text) - TAIL_CHARS)
    tail = text[shift:]
    turn = next((t for t in _TURN.finditer(tail) if tail[: t.start()].strip()), None)
    if turn:
        tail = tail[: turn.start()]
    values = [_inner(found) for found in _VALUE.finditer(tail)]
    for start, end in _sentences(tail, [whole for whole, _ in values]):
        inside = [v for v in values if start <= v[0][0] and v[0][1] <= end]
        inside = [v for v in inside if _HAS_VALUE.search(tail[slice(*v[1])])]
        if not inside:
            continue
        found = _choose(tail, start, end, inside)
        if (
            found is None
            or tail[start:end].rstrip().endswith("?")  # a question states nothing
            or _CUT_BOX.search(tail, start, end)
            or _NEGATED.search(tail, start, found[0])
        ):
            return None
        return found[0] + shift, found[1] + shift
    return None


Span = tuple[int, int]
Value = tuple[Span, Span]  # with its delimiters, without


def _inner(found: re.Match[str]) -> Value:
    group = found.lastgroup
    assert group is not None
    start, end = found.span(group)
    content = found[group]
    left = len(content) - len(content.lstrip())
    if group == "bold":  # "**$5$**", "**Answer: 12**"
        deeper = [_inner(f) for f in _VALUE.finditer(content)]
        if len(deeper) == 1 and (deeper[0][0][0] > 0 or deeper[0][0][1] < len(content)):
            (_, (a, b)) = deeper[0]
            if not re.search(r"[A-Za-z]", content[b:]):
                return found.span(), (start + a, start + b)
    return found.span(), (start + left, end - (len(content) - len(content.rstrip())))


def _sentences(tail: str, masked: list[Span]) -> list[Span]:
    """The last sentences, the last one first."""
    ends = [
        e.end()
        for e in _ENDS.finditer(tail)
        if not any(start <= e.start() < end for start, end in masked)
    ]
    cuts = sorted({0, *ends, len(tail)})
    spans = [(a, b) for a, b in itertools.pairwise(cuts) if tail[a:b].strip(" \n*.$")]
    return spans[: -_SENTENCES_BACK - 1 : -1]


def _choose(tail: str, start: int, end: int, values: list[Value]) -> Span | None:
    last = values[-1]
    if _UNIT_WORDS.fullmatch(tail, last[0][1], end):
        first = len(values) - 1  # of a list "a, b and c" that ends the sentence
        while first and _linked(tail[values[first - 1][0][1] : values[first][0][0]]):
            first -= 1
        if _SAYS_SO.search(tail[start : values[first][0][0]]) or len(values) - first == len(values):
            return values[first][1][0], last[1][1]
    if len(values) == 1:
        return last[1]
    bold = [v for v in values if tail.startswith("**", v[0][0])]
    if len(bold) == 1:
        return bold[0][1]
    opening = _OPENS.fullmatch(tail[start : values[0][0][0]])
    if opening and _IS_WHAT.match(tail, values[0][0][1], end):
        return values[0][1]  # "Therefore, 20 workers are needed to make 720 widgets."
    totals = [v for v in values if _TOTAL.search(tail[start : v[0][0]])]
    if len(totals) != 1:
        return None
    after = [v for v in values if v[0][0] > totals[0][0][1]]
    counted_on = after and re.search(r"(?:\band|,)\s*$", tail[totals[0][0][1] : after[0][0][0]])
    return None if counted_on else totals[0][1]  # "There are 3 cats and 5 dogs in it."


def _linked(between: str) -> bool:
    return bool(_LINK.fullmatch(between)) and between.strip() != ""
