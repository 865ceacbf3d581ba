r"""How large a number is that nobody should compute: 3^{3^{20}}, 9**9**9, 10^{10}!.

Works on logarithms, in floating point, so that a power tower costs microseconds. Used to tell
such a number from an ordinary one, and to keep it from computer algebra.
"""

from __future__ import annotations

import math
import re

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<sign>\*\*|\\frac|\\cdot|\\times|\\div|[-+*/^!(){}]))"
)
_HUGE = 1e300  # stands for every logarithm beyond it
_MAX_DEPTH = 60


class _NotANumber(Exception):
    """It holds something else, or cannot be told."""


def log10_magnitude(latex: str) -> float | None:
    r"""Estimate log10 of the absolute value of a numeric expression.

    Args:
        latex: digits, brackets, + - * / ^ !, \frac, \cdot, \times, \div.

    Returns:
        The logarithm to about 1 %, at most 1e300; None for anything else, for 0, and where terms
        of like size are subtracted.
    """
    try:
        parser = _Parser(latex)
        value = parser.sum(0)
        parser.end()
    except (_NotANumber, ValueError, OverflowError, ZeroDivisionError):
        return None
    return value


class _Parser:
    """A recursive descent over the tokens; each method gives a logarithm."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        at = 0
        text = text.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found:
                raise _NotANumber
            self.tokens.append(found["number"] or found["sign"])
            at = found.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *signs: str) -> bool:
        if self.peek() and self.peek() in signs:
            self.at += 1
            return True
        return False

    def end(self) -> None:
        if self.peek():
            raise _NotANumber

    def sum(self, depth: int) -> float:
        if depth > _MAX_DEPTH:
            raise _NotANumber
        if self.take("-") and depth:
            raise _NotANumber  # only the outermost sign does not matter
        total = self.product(depth)
        while self.peek() in ("+", "-"):
            minus = self.take("-") or not self.take("+")
            term = self.product(depth)
            if minus and abs(total - term) < 1:
                raise _NotANumber  # they may cancel
            larger, smaller = max(total, term), min(total, term)
            total = (
                larger
                if larger - smaller > 15
                else larger + math.log10(1 + 10 ** (smaller - larger) * (-1 if minus else 1))
            )
        return total

    def product(self, depth: int) -> float:
        total = self.power(depth)
        while True:
            if self.take("*", r"\cdot", r"\times"):
                total += self.power(depth)
            elif self.take("/", r"\div"):
                total -= self.power(depth)
            elif self.peek() in ("(", "{", r"\frac"):
                total += self.power(depth)
            else:
                return _capped(total)

    def power(self, depth: int) -> float:
        base = self.atom(depth)
        while self.take("!"):
            base = _capped(math.lgamma(10 ** min(base, 290) + 1) / math.log(10))
        if not self.take("^", "**"):
            return base
        minus = self.take("-")
        exponent = self.power(depth + 1)
        if depth > _MAX_DEPTH or minus:
            raise _NotANumber
        return _capped(base * 10 ** min(exponent, 300))

    def atom(self, depth: int) -> float:
        if self.take(r"\frac"):
            return self.atom(depth + 1) - self.atom(depth + 1)
        for opening, closing in (("(", ")"), ("{", "}")):
            if self.take(opening):
                inside = self.sum(depth + 1)
                if not self.take(closing):
                    raise _NotANumber
                return inside
        if not self.peek()[:1].isdigit() and not self.peek().startswith("."):
            raise _NotANumber
        digits = self.peek()
        self.at += 1
        if len(digits) > 300:
            return float(len(digits.partition(".")[0]) - 1)
        return math.log10(float(digits))  # of 0: an error, which says that it cannot be told


def _capped(value: float) -> float:
    return max(-_HUGE, min(_HUGE, value))
