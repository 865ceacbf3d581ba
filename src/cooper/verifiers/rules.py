r"""What decides a comparison of two mathematical answers, cheapest first.

Precision comes first: a CORRECT may become a chosen completion, so each rule that says CORRECT
has to be right. What no rule can tell is UNDECIDED.

Each of :data:`QUICK_RULES` returns a finding or None, "not mine". They settle equal texts,
numbers, amounts with units, option letters, digits in a number base, and words. Words must never
reach computer algebra, which reads them as products of symbols, so that "yes" equals "sye". What
is left is parted into its values (:mod:`cooper.verifiers.structure`), each of which goes through
the rules again, and at last to computer algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from cooper.verifiers.forms import Form
from cooper.verifiers.magnitude import log10_magnitude
from cooper.verifiers.numeric import Number
from cooper.verifiers.structure import (
    CORRECT,
    INCORRECT,
    UNDECIDED,
    Finding,
    builder_variable,
    compare,
    read,
)

Rule = Callable[[Form, Form], "Finding | None"]  # (answer, reference)


def same_text(answer: Form, reference: Form) -> Finding | None:
    """The same text but for spacing and delimiters is the same answer, whatever it means."""
    if not reference.text:
        return Finding(UNDECIDED, "the reference is empty")
    return Finding(CORRECT, "same text") if answer.tight == reference.tight else None


def option_letter(answer: Form, reference: Form) -> Finding | None:
    """A reference that is one option's letter wants that letter."""
    if "choice_letters" not in reference.rules:
        return None
    if not reference.option or len(reference.plain.strip("() ")) != 1:
        return None
    if answer.option:
        same = answer.option == reference.option
        return Finding(CORRECT if same else INCORRECT, "option letters")
    # In lower case only where it cannot be a constant or a usual name: not e, i, f, g, h.
    letter = answer.plain.strip("() ")
    if letter in {"a", "b", "c", "d"} and letter == reference.option.casefold():
        return Finding(CORRECT, "option letters")
    return None if answer.number is None else Finding(INCORRECT, "a number for an option letter")


def equal_numbers(answer: Form, reference: Form) -> Finding | None:
    """Two plain numbers are compared exactly; a decimal may be a rounded fraction."""
    a, r = answer.number, reference.number
    if a is None or r is None:
        return _decimal_comma(answer, reference)
    if not _same_value(a, r, "rounding" in reference.rules):
        return Finding(INCORRECT, "other number")
    return same_units(a.unit, r.unit) or Finding(CORRECT, "equal numbers")


_WITH_POINT, _WITH_COMMA = (re.compile(rf"-?[0-9]+{sign}[0-9]+") for sign in (r"\.", ","))


def _decimal_comma(answer: Form, reference: Form) -> Finding | None:
    """The same digits, with a comma on one side only: a list "1,22" is never equal to 1.22."""
    if "decimal_comma" not in reference.rules:
        return None
    for one, other in ((answer.tight, reference.tight), (reference.tight, answer.tight)):
        with_both = _WITH_POINT.fullmatch(one) and _WITH_COMMA.fullmatch(other)
        if with_both and one == other.replace(",", "."):
            return Finding(CORRECT, "equal numbers, one with a decimal comma")
    return None


def same_units(answer: str, reference: str) -> Finding | None:
    """What units behind equal values say: a finding where they differ, else None."""
    left, right = _unit(answer), _unit(reference)
    if not left or not right or left == right:
        return None
    if left in _KNOWN_UNITS and right in _KNOWN_UNITS:
        return Finding(INCORRECT, "other unit")
    return Finding(UNDECIDED, "equal values with different words behind them")


_BASED = re.compile(r"\(?([0-9A-Za-z]{1,64})\)?_\{?\s?(?:\\text\{)?([0-9]{1,2}|two|eight)\}{0,2}")


def number_bases(answer: Form, reference: Form) -> Finding | None:
    """``204_5`` carries its base; Math-Verify would drop it."""
    a, r = _BASED.fullmatch(answer.tight), _BASED.fullmatch(reference.tight)
    if not a and not r:
        return None
    if "number_bases" not in reference.rules:
        return Finding(UNDECIDED, "digits in a number base, which are not to be compared")
    if a and a[2] == "10" and not r and reference.number:
        return equal_numbers(answer.part(a[1]), reference)
    if a and r and a[2] == r[2] and all(m[1].isdigit() for m in (a, r)):
        same = a[1].lstrip("0") == r[1].lstrip("0")
        return Finding(CORRECT if same else INCORRECT, "digits in one base")
    if r and not r[1].isdigit():
        return None  # a_1: a symbol with an index
    if a and not a[1].isdigit():
        return None
    return Finding(UNDECIDED, "only one side names its number base, or they differ")


_MIXED_CASE = re.compile(r"[a-z]{1,2}[A-Z][A-Za-z]?")  # "aB" is no way to write a word


def same_words(answer: Form, reference: Form) -> Finding | None:
    """Words are compared as words, never as products of symbols."""
    if not reference.is_words and not answer.is_words:
        return None
    if "words" not in reference.rules:
        return Finding(UNDECIDED, "words, which are not to be compared")
    if answer.plain and answer.plain == reference.plain:
        if any(_MIXED_CASE.fullmatch(form.text) for form in (answer, reference)):
            return Finding(UNDECIDED, "letters that may be symbols, in another case")
        return Finding(CORRECT, "same words")
    if not reference.is_words:
        return Finding(INCORRECT, "words where the reference is a formula")
    if len(reference.plain.split()) > 4:
        # A sentence can be said in other words; no rule can tell.
        return Finding(UNDECIDED, "the reference is a sentence")
    return Finding(INCORRECT, "other words")


def readable(answer: Form, reference: Form) -> Finding | None:
    """Keep from the parser what it would read in part: it takes "x(x+1" for "x"."""
    if reference.flaw:
        return Finding(UNDECIDED, f"the reference cannot be compared: {reference.flaw}")
    if answer.flaw:
        return Finding(INCORRECT, f"the answer cannot be read: {answer.flaw}")
    return None


_MARKS = (re.compile(r"['\"]|\\prime"), re.compile(r"\^\s?\{?\s?(?:T(?![A-Za-z])|\\top)"))


def marks(answer: Form, reference: Form) -> Finding | None:
    r"""Distinctions that Math-Verify does not make: primes, transposition, the x of {x | ...}."""
    for mark in _MARKS:
        if len(mark.findall(answer.text)) != len(mark.findall(reference.text)):
            return Finding(UNDECIDED, "primes or transposition on one side")
    variables = [builder_variable(form.text) for form in (answer, reference)]
    if all(variables) and variables[0] != variables[1]:
        return Finding(UNDECIDED, "sets of different variables")
    return None


_TOO_LARGE = 10_000.0  # digits: beyond, exact arithmetic takes long


def magnitudes(answer: Form, reference: Form) -> Finding | None:
    """A number with more than 10 000 digits is not computed; an ordinary one it is not."""
    if len(answer.text) < 4 and len(reference.text) < 4:
        return None
    a, r = log10_magnitude(answer.latex), log10_magnitude(reference.latex)
    if not any(size is not None and abs(size) > _TOO_LARGE for size in (a, r)):
        return None
    if a is None or r is None:
        plain = any(form.number is not None for form in (answer, reference))  # such as 0
        return Finding(INCORRECT, "of another magnitude") if plain else None
    if min(abs(a), abs(r)) < 0.9 * max(abs(a), abs(r)):
        return Finding(INCORRECT, "of another magnitude")
    return Finding(UNDECIDED, "both are too large to be computed")


# Of a whole answer, and again of each of its values.
QUICK_RULES: tuple[Rule, ...] = (
    same_text,
    option_letter,
    equal_numbers,
    number_bases,
    same_words,
    readable,
    magnitudes,
    marks,
)


def compare_forms(answer: Form, reference: Form, algebra: Rule | None = None) -> Finding | None:
    """Compare by all rules.

    Args:
        answer: what was answered.
        reference: what is right.
        algebra: compares two formulas; None: not here.

    Returns:
        A finding; None where computer algebra is needed and not here.
    """
    for rule in QUICK_RULES:
        finding = rule(answer, reference)
        if finding is not None:
            return finding

    def equal(left: str, right: str) -> Finding | None:
        a, r = answer.part(left), reference.part(right)
        for rule in QUICK_RULES:
            finding = rule(a, r)
            if finding is not None:
                return finding
        return _of_quantities(a, r, algebra(a, r) if algebra else None)

    left, right = (read(form.formula, form.rules) for form in (answer, reference))
    finding = compare(left, right, equal, reference.rules)
    if finding is None and algebra is not None:
        finding = algebra(answer, reference)
    return _of_quantities(answer, reference, finding)


def _of_quantities(answer: Form, reference: Form, finding: Finding | None) -> Finding | None:
    """What is equal as a formula may still differ in its unit or in what it is said to hold for."""
    if finding is None or finding.status is not CORRECT:
        return finding
    held = [re.sub(r"^[,;\s]+|\s", "", form.qualifier) for form in (answer, reference)]
    if all(held) and held[0] != held[1]:
        return Finding(UNDECIDED, "the same formula, said to hold for different values")
    return same_units(answer.unit, reference.unit) or finding


def compare_quickly(answer: Form, reference: Form) -> Finding | None:
    """Compare without computer algebra; None: it is needed."""
    return compare_forms(answer, reference)


# A decimal answer with so many significant digits may stand for the exact value that it rounds; a
# reference with fewer, since whoever wrote it had rounded.
ROUNDED_ANSWER, ROUNDED_REFERENCE, CUT_REFERENCE = 6, 3, 5


def rounds(decimal: Fraction, places: int, exact: Fraction, is_reference: bool) -> bool:
    """Whether a decimal with `places` digits after the point is what `exact` rounds to.

    Args:
        decimal: the decimal's value.
        places: its digits after the point.
        exact: the other side.
        is_reference: whether the decimal is the reference; then fewer digits will do, and one of
            five digits may have been cut instead of rounded.
    """
    digits = len(str(abs(decimal.numerator * 10**places // decimal.denominator)))
    if digits < (ROUNDED_REFERENCE if is_reference else ROUNDED_ANSWER):
        return False
    step = Fraction(1, 10**places)
    if is_reference and digits >= CUT_REFERENCE and 0 <= (abs(exact) - abs(decimal)) < step:
        return exact * decimal > 0
    return abs(decimal - exact) <= step / 2


def _same_value(a: Number, r: Number, rounding: bool) -> bool:
    if a.percent != r.percent:
        # 28 % is 0.28. It is also meant by a plain 28 where a percentage was asked for, but 0.5
        # is not 0.5 %: so only above 1.
        share, plain = (a, r) if a.percent else (r, a)
        if share.value / 100 == plain.value or (share.value == plain.value and plain.value > 1):
            return True
        if share is r and r.decimals is not None and a.decimals is None and rounding:
            return rounds(r.value, r.decimals, a.value * 100, is_reference=True)
        return False
    if a.value == r.value:
        return True
    if rounding and a.decimals is not None and r.decimals is None:
        return rounds(a.value, a.decimals, r.value, is_reference=False)
    if rounding and r.decimals is not None and a.decimals is None and a.value.denominator > 1:
        return rounds(r.value, r.decimals, a.value, is_reference=True)
    return False


_SPELLINGS = (
    "mm millimeter millimeters millimetre millimetres",
    "cm centimeter centimeters centimetre centimetres",
    "m meter meters metre metres",
    "km kilometer kilometers kilometre kilometres",
    "g gram grams",
    "kg kilogram kilograms",
    "s sec second seconds",
    "min minute minutes",
    "h hr hrs hour hours",
    "day days",
    "week weeks",
    "month months",
    "year years",
    "in inch inches",
    "ft foot feet",
    "mile miles",
    "lb lbs pound pounds",
    "l liter liters litre litres",
    "ml milliliter milliliters millilitre millilitres",
    "$ dollar dollars usd",
    "cent cents",
    "degree degrees ^\\circ ^{\\circ} \\degree \\degrees °",
)
_CANONICAL = {word: line.split()[0] for line in _SPELLINGS for word in line.split()}
_KNOWN_UNITS = frozenset(_CANONICAL.values())


def _unit(words: str) -> str:
    """One spelling of a unit: "square inches" and "in^2" are one."""
    words = words.replace("{", "").replace("}", "").strip(" .")
    for name, power in (("square", "2"), ("cubic", "3"), ("sq", "2")):
        if words.startswith(name + " "):
            words = f"{words.removeprefix(name + ' ')}^{power}"
    base, hat, power = words.partition("^")
    if words in _CANONICAL:
        return _CANONICAL[words]
    base = _CANONICAL.get(base.strip(), base.strip())
    # "unit" and "units" measure nothing that could differ.
    return "" if base in ("unit", "units") else base + hat + power
