r"""What runs in the verifier's worker processes: computer algebra on text that a model wrote.

No text is ever evaluated as code. Math-Verify 0.9 leads to ``sympy.parsing.parse_expr``, which
ends in Python's ``eval``, on two ways:

* ``ExprExtractionConfig`` hands it what looks like arithmetic. Its regular expression lets through
  digits, signs and parentheses only, but 9**9**9 is enough of a bomb. It is not used here.
* ``LatexExtractionConfig``, used here, parses by an ANTLR grammar and builds sympy objects; but a
  number goes to ``sympy.Number(text)``, and that to ``sympify`` and ``parse_expr``. The grammar
  makes it digits by then.

We do not rely on those expressions: in a worker, ``parse_expr`` is replaced by a reader of plain
numbers, and ``eval`` and ``exec`` are taken away from the sympy modules that call them. Another
way to them would end in an error and no verdict.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, cast

from cooper.verifiers.forms import ALL, Form
from cooper.verifiers.rules import compare_forms, rounds
from cooper.verifiers.structure import CORRECT, INCORRECT, UNDECIDED, Finding, num_commas

# One pair each for the parser, for simplify() and for solve().
_WARM_UP = (
    ("x+1.5", "1.5+x"),
    (r"\sec^2(y)", r"\tan^2(y)+1"),
    (r"y=-\frac{1}{2}x+\frac{3}{4}", "2x+4y-3=0"),
)
# Calls of eval, exec or parse_expr that were refused in this worker.
_refused: list[str] = []


def prepare_worker() -> Callable[[Any], list[str]]:
    """Import Math-Verify once for a worker and return its comparison.

    Returns:
        :func:`compare_symbolically`, warmed up.

    Raises:
        RuntimeError: Math-Verify does not find equal what is.
    """
    # The first parse builds the grammar's tables, and sympy imports some of its parts when first
    # used; sympy.physics.units, which simplify() needs, wants parse_expr for that. So all of it
    # comes before evaluation is switched off. A broken installation shows here, loudly, and not
    # as verdicts, since Math-Verify keeps its exceptions to itself.
    importlib.import_module("sympy.physics.units")
    _forbid_evaluation()
    for pair in _WARM_UP:
        status, reason = compare_symbolically(pair)
        if status != CORRECT.value:
            raise RuntimeError(f"Math-Verify does not find {pair} equal: {reason}")
    return compare_symbolically


def compare_symbolically(pair: Sequence[Any]) -> list[str]:
    """Compare two answers with computer algebra. Runs in a worker: unbounded in time and memory.

    Args:
        pair: the answer, the reference, and the names of the rules that are off.

    Returns:
        A status and a reason.
    """
    answer, reference, *off = pair
    rules = ALL - frozenset(off[0] if off else ())
    _refused.clear()
    finding = compare_forms(Form(answer, rules), Form(reference, rules), equal_formulas)
    if finding is None or (_refused and finding.status is not CORRECT):
        # The libraries swallow the refusal, so what they said after it means nothing.
        return [UNDECIDED.value, "evaluation of text was refused"]
    return [finding.status.value, finding.reason]


def equal_formulas(answer: Form, reference: Form) -> Finding:
    """Whether two formulas are equal, by whatever of the rules on algebra is on."""
    rules = reference.rules
    if "algebra" not in rules:
        return Finding(UNDECIDED, "computer algebra is switched off")
    apart = left, right = _tell_cases_apart(answer.latex, reference.latex)
    if "radians" in rules:
        left, right = _in_radians(left, right)
    if "degrees" in rules and not _TRIG.search(left + right):
        # An angle: the sign says nothing that the number does not.
        left, right = _DEGREE.sub("", left), _DEGREE.sub("", right)
    one_sided = (r"\circ" in left) != (r"\circ" in right)
    if one_sided and _TRIG.search(left + right):
        return Finding(UNDECIDED, "degrees on one side of a trigonometric answer")
    finding = _equal(left, right, rules)
    if finding.status is INCORRECT and "rounding" in rules and _rounded(answer, reference):
        return Finding(CORRECT, "equal when rounded")
    if finding.status is INCORRECT and "renamed_variables" in rules:
        renamed = _renamed(left, right)
        if renamed and _equal(*renamed, rules).status is CORRECT:
            return Finding(CORRECT, "equal but for the name of a variable")
    merged = answer.latex, reference.latex
    if finding.status is INCORRECT and apart != merged and _equal(*merged, rules).status is CORRECT:
        return Finding(UNDECIDED, "equal but for the case of letters")
    return finding


def _equal(answer: str, reference: str, rules: frozenset[str]) -> Finding:
    from math_verify import verify

    gold = _parsed(reference)
    if not gold:
        return Finding(UNDECIDED, "the reference cannot be parsed")
    target = _parsed(answer)
    if not target:
        return Finding(INCORRECT, "the answer cannot be parsed")
    for latex, parsed, whose in ((reference, gold, "reference"), (answer, target, "answer")):
        if why := _misread(latex, parsed[0]):
            return Finding(UNDECIDED, f"the {whose} cannot be compared: {why}")
    # timeout_seconds=None: its time-outs are alarm signals; the pool's limits hold instead.
    if verify(gold, target, timeout_seconds=None):
        if not _confirmed(gold[0], target[0]):
            return Finding(INCORRECT, "equal only after rounding")
        if "degrees" not in rules and bool(_DEGREE.search(answer)) != bool(
            _DEGREE.search(reference)
        ):
            return Finding(UNDECIDED, "degrees on one side")
        if num_commas(answer) != num_commas(reference) and not _SETS.search(answer + reference):
            # As sets, "5" and the double root "5, 5" are equal.
            return Finding(UNDECIDED, "equal as sets only: the number of values differs")
        return Finding(CORRECT, "equivalent by Math-Verify")
    pairs = [(target[0], gold[0])]
    if "imaginary_unit" in rules:
        pairs += _with_imaginary_unit(target[0], gold[0])
    if "sampling" in rules and any(_equal_at_points(x, y) for x, y in pairs):
        return Finding(CORRECT, "equal at all points tried")
    return Finding(INCORRECT, "not equivalent by Math-Verify")


_SIGNED_SET = re.compile(r"[-+*/]\s*\\\{")


def _misread(latex: str, parsed: Any) -> str:
    """Why what was parsed is not what was written, although the parser did not say so."""
    if getattr(parsed, "is_Boolean", False) and getattr(parsed, "is_Atom", False):
        return "it is an equation of numbers, only true or false"
    if _vanishes(parsed) and re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", latex)):
        return "it vanishes if letters are numbers"  # DA - AD, with matrices
    if re.search(r"\\(?:max|min|inf|sup|arg|argmax|argmin)(?![A-Za-z])(?!\s*[({\\])", latex):
        return "it takes a maximum or its like without brackets"
    if re.fullmatch(r"\s*[-+]\s*[(\[].*,.*[)\]]\s*", latex, re.DOTALL):
        return "it has a sign before several values"
    if latex.count("begin") > 1 and _letters(re.sub(r"\{[a-z]*\}", "", latex)):
        return "it is a sum of matrices with letters"
    if _SIGNED_SET.search(latex):
        return "it has a sign before a set"
    return ""


def _vanishes(parsed: Any) -> bool:
    from sympy import Expr

    return isinstance(parsed, Expr) and bool(parsed.free_symbols) and parsed.doit().expand() == 0


_SETS = re.compile(r"\\(?:pm|mp|cup|in|or|and|text|quad)(?![A-Za-z])|[{;]|\b(?:or|and)\b")


def _parsed(latex: str) -> list[Any]:
    """Parse one expression by Math-Verify's LaTeX grammar, and by nothing else.

    Its unit stripping is off: it takes the variable c of "2 c" for cents. The text fallback is
    off too: what is not parsed is not compared.
    """
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
        ),
    )
    return parse(
        f"\\boxed{{{latex}}}",
        extraction_config=[config],
        fallback_mode="no_fallback",
        # None switches the signal-based limit off, as Math-Verify documents; its type says int.
        parsing_timeout=cast(int, None),
    )


# ------------------------------------------------------------------ before the formulas are parsed

_TRIG = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREE = re.compile(r"\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))|\\degrees?(?![A-Za-z])")
_OUTSIDE_COMMANDS = re.compile(r"\\[A-Za-z]+|[A-Za-z]")


def _tell_cases_apart(left: str, right: str) -> tuple[str, str]:
    """Give capitals other names where the same letter stands in both cases.

    Math-Verify lowers the case of letters, so that A would equal a.
    """
    letters = {
        found[0]
        for text in (left, right)
        for found in _OUTSIDE_COMMANDS.finditer(text)
        if len(found[0]) == 1
    }
    both = sorted(letter for letter in letters if letter.isupper() and letter.lower() in letters)
    names = {letter: rf"\psi_{{9{ord(letter)}}}" for letter in both if letter not in "EI"}

    def rename(text: str) -> str:
        return _OUTSIDE_COMMANDS.sub(lambda found: names.get(found[0], found[0]), text)

    return (rename(left), rename(right)) if names else (left, right)


def _in_radians(left: str, right: str) -> tuple[str, str]:
    r"""Write degrees as radians where the other side or a trigonometric function wants them."""
    degrees = [bool(_DEGREE.search(text)) for text in (left, right)]
    if not any(degrees):
        return left, right
    in_trig = any(_TRIG.search(text) for text in (left, right))
    in_pi = [r"\pi" in text for text in (left, right)]
    mixed = degrees != [True, True] and (in_pi[0] or in_pi[1])
    if not (mixed or (in_trig and _degrees_are_arguments(left, right))):
        return left, right
    factor = r"\cdot\frac{\pi}{180}"
    return _DEGREE.sub(lambda _: factor, left), _DEGREE.sub(lambda _: factor, right)


def _degrees_are_arguments(left: str, right: str) -> bool:
    r"""Whether degrees on one side stand beside a free symbol or a function that needs none.

    "\sin(90^\circ - x)" is read in radians as "\cos x" is; "\sin 10" against
    "\sin 10^\circ" may be either.
    """
    for text in (left, right):
        if _TRIG.search(text) and not _DEGREE.search(text) and re.search(r"\d", text):
            return False
    return True


_DEFINED = re.compile(
    r"\s*(?P<name>[A-Za-z])\s?(?:\(\s?(?P<variable>[A-Za-z])\s?\))?\s*=(?P<body>[^=]+)"
)
_PARAMETERS = frozenset("kmnpqt")


def _renamed(left: str, right: str) -> tuple[str, str] | None:
    """The bodies of two definitions under one variable: f(m) = 2m + 1 and f(n) = 2n + 1.

    Without definitions, one integer parameter (k, m, n, ...) that stands for another.
    """
    one, other = _DEFINED.fullmatch(left), _DEFINED.fullmatch(right)
    if one and other:
        if _letters(one["body"]) & {one["name"]} or _letters(other["body"]) & {other["name"]}:
            return None
        if one["variable"] and other["variable"] and one["variable"] != other["variable"]:
            if other["variable"] in _letters(one["body"]):
                return None
            return _replaced(one["body"], one["variable"], other["variable"]), other["body"]
        if one["name"] != other["name"] and bool(one["variable"]) != bool(other["variable"]):
            given = one["variable"] or other["variable"]
            if _letters(one["body"]) | _letters(other["body"]) <= {given}:
                return one["body"], other["body"]  # f(x) = 2x + 3 and y = 2x + 3
        return None
    mine, theirs = _letters(left) - {"e", "i"}, _letters(right) - {"e", "i"}
    extra, missing = mine - theirs, theirs - mine
    if len(extra) == len(missing) == 1 and (extra | missing) <= _PARAMETERS and r"\pi" in left:
        return _replaced(left, extra.pop(), missing.pop()), right
    return None


def _letters(text: str) -> set[str]:
    return {found for found in _OUTSIDE_COMMANDS.findall(text) if len(found) == 1}


def _replaced(text: str, old: str, new: str) -> str:
    return _OUTSIDE_COMMANDS.sub(lambda found: new if found[0] == old else found[0], text)


# ------------------------------------------------------------------- after the formulas are parsed

# Math-Verify rounds to 6 decimals, absolutely, so that 1/2004! equals 1/2006!.
_RELATIVE = 2e-6


def _confirmed(gold: Any, target: Any) -> bool:
    """Check numbers that Math-Verify called equal by their relative difference."""
    from sympy import Expr

    if not (isinstance(gold, Expr) and isinstance(target, Expr)):
        return True
    if gold == target or not (gold.is_number and target.is_number):
        return True
    left, right = gold.doit().evalf(30), target.doit().evalf(30)
    scale = max(abs(left), abs(right))
    # Percentages are the one case in which Math-Verify means equal by another scale.
    return any(
        bool(abs(left * factor - right) <= _RELATIVE * max(scale, abs(left * factor)))
        for factor in (1, 100, 0.01)
        if factor == 1 or "1/100" in str(gold) + str(target)
    )


def _rounded(answer: Form, reference: Form) -> bool:
    """Whether one side is a decimal that the other, an exact value, rounds to."""
    for side, other, is_reference in ((reference, answer, True), (answer, reference, False)):
        decimal = side.number
        if decimal is None or decimal.decimals is None or re.search(r"\d\.\d", other.formula):
            continue
        parsed = _parsed(other.latex)
        exact = _real(parsed[0]) if parsed else None
        if exact is None:
            continue
        if decimal.percent and "%" not in other.text:
            exact *= 100
        if rounds(decimal.value, decimal.decimals, exact, is_reference):
            return True
    return False


def _real(expression: Any) -> Fraction | None:
    """The value of a real number to 30 digits."""
    from sympy import Expr

    if not isinstance(expression, Expr) or not expression.is_number:
        return None
    value = expression.evalf(30)
    if not value.is_Float and not value.is_Integer:
        return None
    return Fraction(str(value))


def _with_imaginary_unit(left: Any, right: Any) -> list[tuple[Any, Any]]:
    """Both sides with the letter i as the imaginary unit, when both know it and no other letter."""
    from sympy import Expr, I

    if not (isinstance(left, Expr) and isinstance(right, Expr)):
        return []
    swap: Any = {symbol: I for side in (left, right) for symbol in side.free_symbols}
    names = {str(symbol) for symbol in swap}
    if names != {"i"}:
        return []
    return [(left.subs(swap), right.subs(swap))]


# Positive, small, large and negative: a formula is defined on some of them, or is not compared.
_RANGES = ((0.1, 0.9), (0.1, 0.9), (0.3, 1.2), (0.3, 1.2), (1.1, 3.0), (1.1, 3.0), (-2.0, -0.2),
           (-2.0, -0.2), (2.0, 9.0), (2.0, 9.0))  # fmt: skip
_POINTS_NEEDED = 4
_MAX_SYMBOLS = 8


def _equal_at_points(left: Any, right: Any) -> bool:
    """Whether two expressions have equal values wherever both are real.

    The points are the same in every run. They are exact fractions, and the values have 25 digits;
    so what agrees to 12 of them at four points is equal, unless it is piecewise and the points
    miss a piece, which is why they lie on both sides of 0 and of 1.
    """
    from sympy import Expr, Rational

    if not (isinstance(left, Expr) and isinstance(right, Expr)):
        return False
    if any(not hasattr(e, "free_symbols") or _is_exotic(e) for e in (left, right)):
        return False
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if len(symbols) > _MAX_SYMBOLS or left.free_symbols != right.free_symbols:
        return False
    draw = random.Random(0)
    compared = 0
    for low, high in _RANGES if symbols else _RANGES[:1]:
        point = {s: Rational(round(draw.uniform(low, high) * 1000), 1000) for s in symbols}
        values = [cast(Any, expression).subs(point).evalf(25) for expression in (left, right)]
        if not all(value.is_number and value.is_finite for value in values):
            continue
        if symbols and not all(value.is_real for value in values):
            continue
        scale = max(abs(value) for value in values)
        if abs(values[0] - values[1]) > 1e-12 * max(scale, Rational(1, 10**12)):
            return False
        compared += 1
    return compared >= (_POINTS_NEEDED if symbols else 1)


def _is_exotic(expression: Any) -> bool:
    """Whether it holds what must not be sampled: sums, limits, huge powers, unknown functions."""
    from sympy import Derivative, Integral, Limit, Product, Sum, factorial
    from sympy.core.function import AppliedUndef

    return bool(expression.has(Derivative, Integral, Limit, Product, Sum, AppliedUndef, factorial))


_PLAIN_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def _forbid_evaluation() -> None:
    """Take ``eval`` and ``exec`` away from sympy's parser and code generator.

    A module's own global hides the built-in of the same name. What the LaTeX parser needs of
    ``parse_expr``, to read a number, is put in its place.
    """
    from sympy import Float, Integer

    def refuse(*_: Any, **__: Any) -> Any:
        _refused.append("eval")
        raise RuntimeError("evaluation of text is switched off in verifier workers")

    def read_number(text: str, *_: Any, **__: Any) -> Any:
        if not _PLAIN_NUMBER.fullmatch(text):
            refuse()
        return Integer(text) if text.isdigit() else Float(text)

    # By name: as attributes of their packages, functions hide one of them.
    for name in ("sympy.parsing.sympy_parser", "sympy.utilities.lambdify"):
        module = importlib.import_module(name)
        for function in ("eval", "exec"):
            setattr(module, function, refuse)
    parser: Any = importlib.import_module("sympy.parsing.sympy_parser")
    parser.parse_expr = read_number
