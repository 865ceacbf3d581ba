r"""Numbers compared exactly: what GSM8K, SVAMP and arithmetic tasks need.

A number is read by regular expressions into a :class:`fractions.Fraction`; nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier, check_lengths
from cooper.verifiers.extraction import boxed, extract_answer, unwrap

__all__ = ["Number", "NumericVerifier", "parse_number"]

# Longer texts are no number. Conversion of decimal digits takes quadratic time; at this length it
# is microseconds.
MAX_NUMBER_CHARS = 400
MAX_EXPONENT = 400


@dataclass(frozen=True)
class Number:
    """A number as it was written."""

    value: Fraction
    percent: bool = False  # "5%" has value 5 and percent set
    unit: str = ""  # the words after it, lower case: "apples", "cm"; "$" for money
    decimals: int | None = None  # digits after the point; None: not written as a decimal
    # What is special about how it was written: percent, units, currency, degrees, thousands,
    # mixed_numbers, repeating_decimals, ordinals.
    spellings: frozenset[str] = frozenset()


_INTEGER = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+"
_DECIMAL = rf"(?:{_INTEGER})\.[0-9]+|\.[0-9]+|(?:{_INTEGER})\.?"
_BRACED = r"\\frac\s*(?:\{\s*(-?\s*[0-9.]+)\s*\}|([0-9]))\s*(?:\{\s*(-?\s*[0-9.]+)\s*\}|([0-9]))"
_NUMBER = re.compile(
    rf"""
    (?P<sign>[+-]?)\s*
    (?P<money>\\?[$€£]|)\s*
    (?P<sign2>-?)\s*
    (?:
        (?:(?P<whole>[0-9]+)(?:\s+|(?=\\frac)))?
        (?: {_BRACED} | (?P<num>{_DECIMAL})\s*/\s*(?P<den>-?\s*(?:{_DECIMAL})) )
      | (?P<decimal>{_DECIMAL})
        (?: [eE](?P<exp1>[+-]?[0-9]{{1,3}})
          | \s*(?:\\times|\\cdot|[*x\u00d7])\s*10\s*\^\s*(?:\{{\s*(?P<exp2>-?[0-9]{{1,3}})\s*\}}
          | (?P<exp3>[0-9]))
        )?
    )
    (?P<rest>.*)
    """,
    re.VERBOSE | re.DOTALL,
)
# What may follow: a percent sign, a degree sign, or one to three plain words.
_PERCENT = re.compile(r"\\?%|percent|per cent|pct|percentage", re.IGNORECASE)
_UNIT = re.compile(r"[A-Za-z]+(?: [A-Za-z]+){0,2}(?:\^\{?[23]\}?)?|\^\{?\\circ\}?|\\degrees?|°")
_TEXT = re.compile(r"\\(?:text|mathrm|textrm|textbf|mathbf|mbox|textit|rm)\s?\{([^{}]*)\}")
_ASSIGNED = re.compile(r"\s*\\?[A-Za-z]{1,12}(?:_\{?[A-Za-z0-9]{1,4}\}?)?\s*=\s*(?=[^=])")
_SHORT_UNIT_NAMES = "mm cm dm km mg kg ml cl mph kmh ft in lb lbs oz m s g h l"
_SHORT_UNITS = frozenset(_SHORT_UNIT_NAMES.split())
# Words that make of the number another one, or of the statement another statement.
_NO_UNIT_WORDS = """
    hundred hundreds thousand thousands million millions billion billions trillion dozen dozens
    half halves third thirds quarter quarters score bn mn or and plus minus times over
    by divided multiplied squared cubed factorial to through until not mod modulo base percent
    pi sqrt power point more less than about approximately at least most greater
    unless if wrong incorrect hex binary octal root log ln sin cos tan exp inf infinity
"""
NO_UNITS = frozenset(_NO_UNIT_WORDS.split())
_ORDINAL = re.compile(
    r"([0-9]+)\s*(?:\^\s?\{?)?\s*(?:\\(?:text|mathrm|textrm|rm)\s?\{)?\s*(?:st|nd|rd|th)\s*\}{0,2}"
    r"(?:\s+[A-Za-z]+)?"
)
_REPEATING = re.compile(r"(-?)([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s?\{?([0-9]{1,60})\}?")
_DEGREES = re.compile(r"degrees?|\^\{?\\circ\}?|\\degrees?|°")


def parse_number(text: str) -> Number | None:
    r"""Read one number.

    Understood: ``17``, ``-3``, ``17.0``, ``.5``, ``1,234``, ``1{,}234``, ``$17``, ``34/2``,
    ``\frac{34}{2}``, ``2\frac{1}{2}``, ``2 1/2``, ``1e3``, ``3\times 10^{4}``, each with an
    optional ``x =`` before it and a percent sign or a unit in plain words behind it; ``15th``;
    ``0.\overline{3}``.

    Args:
        text: any text.

    Returns:
        The number, or None: not a number, more than 400 characters, or zero as a denominator.
    """
    if len(text) > 4 * MAX_NUMBER_CHARS:
        return None
    text = unwrap(text)
    text = text.replace("\u2212", "-").replace("\u2013", "-").replace("{,}", ",")
    text = re.sub(r"\\!\s?|\\left|\\right|\\displaystyle|\u202f", "", text)
    text = re.sub(r"(?<=[0-9])\\,(?=[0-9]{3})", ",", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = _TEXT.sub(r" \1", text).replace("\\,", " ").replace("\\ ", " ").replace("~", " ")
    text = _ASSIGNED.sub("", text.strip(), count=1)
    text = unwrap(text.strip())
    if not text or len(text) > MAX_NUMBER_CHARS:
        return None
    if ordinal := _ORDINAL.fullmatch(text):
        return Number(Fraction(int(ordinal[1])), spellings=frozenset({"ordinals"}))
    if repeating := _REPEATING.fullmatch(text):
        return _repeating(*repeating.groups())
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    tail = _tail(found["rest"])
    if tail is None:
        return None
    percent, unit = tail
    value, decimals = _value(found)
    if value is None:
        return None
    if found["sign"] and found["sign2"]:
        return None
    if "-" in (found["sign"], found["sign2"]):
        value = -value
    spellings = {
        "percent": percent,
        "degrees": bool(_DEGREES.fullmatch(unit)),
        "units": bool(unit) and not _DEGREES.fullmatch(unit),
        "currency": bool(found["money"]),
        "thousands": "," in text,
        "mixed_numbers": found["whole"] is not None,
    }
    used = frozenset(name for name, is_used in spellings.items() if is_used)
    return Number(value, percent, unit or ("$" if found["money"] else ""), decimals, used)


def _repeating(sign: str, whole: str, first: str, period: str) -> Number:
    r"""``0.1\overline{6}`` is (16 - 1) / 90."""
    top = int(f"{whole or 0}{first}{period}") - int(f"{whole or 0}{first}")
    value = Fraction(top, (10 ** len(period) - 1) * 10 ** len(first))
    return Number(-value if sign else value, spellings=frozenset({"repeating_decimals"}))


def _value(found: re.Match[str]) -> tuple[Fraction | None, int | None]:
    """Return the unsigned value and, for a plain decimal, its digits after the point."""
    if found["decimal"] is not None:
        digits = found["decimal"].replace(",", "")
        exponent = int(found["exp1"] or found["exp2"] or found["exp3"] or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None, None
        value = Fraction(_padded(digits)) * Fraction(10) ** exponent
        plain = "." in digits and exponent == 0
        return value, len(digits.partition(".")[2]) if plain else None
    numbers = [g for g in found.groups()[4:8] if g is not None] or [found["num"], found["den"]]
    top, bottom = (_signed(part) for part in numbers)
    if top is None or bottom is None or bottom == 0:
        return None, None
    value = top / bottom
    if found["whole"] is not None:
        # A mixed number; anything else (2 3/2, 2 -1/2) is not one.
        if not 0 < value < 1:
            return None, None
        value += int(found["whole"])
    return value, None


def _padded(digits: str) -> str:
    """Give Fraction a digit on both sides of the point."""
    digits = digits.rstrip(".")
    return "0" + digits if digits.startswith(".") else digits


def _signed(text: str) -> Fraction | None:
    text = text.replace(",", "").replace(" ", "")
    negative = text.startswith("-")
    text = text.lstrip("-")
    if not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", text):
        return None
    value = Fraction(_padded(text))
    return -value if negative else value


def _tail(rest: str) -> tuple[bool, str] | None:
    """Read what follows a number as (percent, unit), or None: it is more than a number."""
    glued = rest[:1].isalpha()  # "2ab" is a product, "2 ab" an amount
    rest = rest.strip()
    if not rest:
        return False, ""
    if _PERCENT.fullmatch(rest):
        return True, ""
    if _UNIT.fullmatch(rest):
        words = rest.lower().split()
        known = rest in _SHORT_UNITS
        if glued and not known:
            return None
        if len(words[0]) == 1 and words[0].isalpha() and not (known and not glued):
            return None  # "2x", "2 x": a variable
        if not NO_UNITS.intersection(words):
            return False, " ".join(words)
    return None


class NumericVerifier(Verifier):
    """Compares answers as numbers, exactly or within a tolerance.

    Words after the number ("17 apples") and a currency sign are ignored; a percent sign has to
    stand on both sides or on neither. Runs in-process, in bounded time.
    """

    def __init__(
        self,
        tolerance: float = 0.0,
        relative_tolerance: float = 0.0,
        allow_stated: bool = True,
    ) -> None:
        r"""Set up.

        Args:
            tolerance: largest absolute difference that still counts as equal; 0 means exact.
            relative_tolerance: the same as a share of the reference's size; the larger one holds.
            allow_stated: whether "The answer is X" counts where no ``\boxed{X}`` stands.

        Raises:
            ValueError: a tolerance is negative or not finite.
        """
        for name, value in (("tolerance", tolerance), ("relative_tolerance", relative_tolerance)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value}: a finite number, 0 or more, is needed")
        # repr: 0.1 is meant as one tenth, not as the nearest binary fraction.
        self._absolute = Fraction(repr(float(tolerance)))
        self._relative = Fraction(repr(float(relative_tolerance)))
        self.allow_stated = allow_stated

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """Verify a batch; see :meth:`Verifier.verify`."""
        check_lengths(completions, references, questions)
        return [self._one(c, r) for c, r in zip(completions, references, strict=True)]

    def _one(self, completion: str, reference: str) -> Verdict:
        box = boxed(reference)
        gold = parse_number(reference if box is None else box.text)
        if gold is None:
            return Verdict(Status.UNDECIDED, "the reference is not a number")
        found = extract_answer(completion, self.allow_stated)
        if found is None:
            return Verdict(Status.INCORRECT, "no answer")
        number = parse_number(found.text)
        if number is None:
            return Verdict(Status.INCORRECT, "not a number", found.text, found.span)
        if number.percent != gold.percent:
            return Verdict(Status.INCORRECT, "one is a percentage", found.text, found.span)
        margin = max(self._absolute, self._relative * abs(gold.value))
        same = abs(number.value - gold.value) <= margin
        return Verdict(
            Status.CORRECT if same else Status.INCORRECT,
            "equal numbers" if same else "other number",
            found.text,
            found.span,
        )
