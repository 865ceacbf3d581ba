r"""Mathematical answers: rules that decide cheaply, then Math-Verify in worker processes.

Precision comes first: a CORRECT may become a chosen completion, so each rule that says CORRECT
has to be right. What no rule can tell is UNDECIDED.

A comparison runs through :data:`QUICK_RULES` in order, in this process; each rule returns a
finding or None, "not mine". They settle equal texts, numbers, amounts with units, option letters,
digits in a number base, and words. Words must never reach Math-Verify, which reads them as
products of symbols, so that "yes" equals "sye". What is left goes to :func:`compare_symbolically`
in a worker.

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
import importlib.util
import re
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, cast

from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier, check_lengths
from cooper.verifiers.extraction import MAX_ANSWER_CHARS, boxed, extract_answer, unwrap
from cooper.verifiers.numeric import Number, parse_number
from cooper.verifiers.pool import Reply, WorkerPool, _mapped

__all__ = ["QUICK_RULES", "Finding", "Form", "MathVerifier", "compare_quickly"]

CORRECT, INCORRECT, UNDECIDED = Status.CORRECT, Status.INCORRECT, Status.UNDECIDED


@dataclass(frozen=True)
class Finding:
    """What a rule found: the status and the reason that the verdict will give."""

    status: Status
    reason: str


_UNICODE = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u00b1": r"\pm ",
        "\u222a": r"\cup ",
        "\u2208": r"\in ",
        "\u00b0": r"^\circ ",
        "\u00b2": "^2",
        "\u00b3": "^3",
    }
)
_SPACING = re.compile(
    # Not after a backslash: "\\\\ " ends a row of a matrix.
    r"(?<!\\)\\(?:(?:left|right|[bB]igg?[lr]?|displaystyle|limits|q?quad)(?![A-Za-z])|[,!;: ])|~"
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf)|mbox|rm)\s?\{([^{}]*)\}"
)
_SYMBOL_TEXT = re.compile(r"\s*(?:[A-Za-z]|or|and|[^A-Za-z]*)\s*")  # not a word inside \text{}
_COMMAND = re.compile(r"\\[A-Za-z]+")
_RUN = re.compile(r"[^\W\d_]+")
_LONELY_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s.,'\u2019-]+[^\W\d_]+)*[.!]?")
# Names that belong to formulas although they have several letters.
_FUNCTION_NAMES = """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt pi max min gcd
    lcm mod det dim ker deg arg inf sup lim infty theta alpha beta gamma delta lambda omega phi
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_NAMES = re.compile(
    r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|infty"
    r"|theta|alpha|beta|gamma|lambda)(?![A-Za-z])"
)


class Form:
    """One side of a comparison in the shapes that the rules read, each made when first needed."""

    def __init__(self, text: str) -> None:
        """Take the answer's text without its box.

        Args:
            text: at most ``MAX_ANSWER_CHARS`` characters, so that every rule is cheap.
        """
        self.raw = text

    @cached_property
    def text(self) -> str:
        """The text without delimiters and spacing commands, other spellings made one."""
        text = unwrap(self.raw).translate(_UNICODE)
        text = text.replace("{,}", ",").replace(r"\$", "$").replace(r"\%", "%")
        text = re.sub(r"(?<!\\)\\!\s*", "", text)
        text = re.sub(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ",", text)
        text = _SPACING.sub(" ", text)
        text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
        return " ".join(unwrap(text).split())

    @cached_property
    def plain(self) -> str:
        r"""As words: ``\text{Yes}.`` becomes ``yes``."""
        text = _TEXT.sub(r"\1", self.text)
        return " ".join(re.sub(r"[\\{}$*\"]", " ", text).split()).strip(" .,;:!").casefold()

    @cached_property
    def tight(self) -> str:
        r"""Without any white space, case kept: for the comparison of formulas as text.

        A space stays between two letters ("\pi x" is not "\pix") and between two digits ("2 3"
        is not "23").
        """
        return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=[0-9]) (?=[A-Za-z])", "", self.text)

    @cached_property
    def number(self) -> Number | None:
        """The number with its unit, when it is one."""
        return parse_number(self.text)

    @cached_property
    def is_words(self) -> bool:
        r"""Whether it is language and no formula.

        Language is: words in ``\text{...}``; letters without any digit or sign, two at least
        ("no", "Evelyn"); or a run of four letters that is no function's name ("5 apples").
        """
        if any(not _SYMBOL_TEXT.fullmatch(inside) for inside in _TEXT.findall(self.text)):
            return True
        bare = _TEXT.sub(r" \1 ", self.text)
        if _LONELY_WORDS.fullmatch(bare):
            return bare.strip().casefold() not in _FUNCTIONS
        bare = re.sub(r"\\(?:begin|end)\s?\{[a-z]*\}(?:\{[clr|]*\})?", " ", bare)
        bare = re.sub(r"\\operatorname\s?\{[A-Za-z]*\}", " ", bare)
        bare = _COMMAND.sub(" ", bare)
        return any(len(run) >= 4 and run.casefold() not in _FUNCTIONS for run in _RUN.findall(bare))

    @cached_property
    def option(self) -> str:
        """The letter of a multiple-choice option: "(B)", "B.", "B) 12", else empty."""
        text = " ".join(_TEXT.sub(r"\1", self.text).replace("{", " ").replace("}", " ").split())
        found = _OPTION.fullmatch(text)
        return found["a"] or found["b"] or found["c"] if found else ""

    @cached_property
    def latex(self) -> str:
        """What Math-Verify's LaTeX grammar gets: plain-text mathematics turned into commands."""
        text = self.text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ")
        text = _NAMES.sub(r"\\\1 ", text)
        text = re.sub(r"\\(sqrt|pi|infty|theta) +(?=[(^{])", r"\\\1", text)
        return _braced(_braced(text, r"\sqrt"), "^").replace("%", r"\%")

    @cached_property
    def flaw(self) -> str:
        """Why Math-Verify must not see it, although it might read a part of it; else empty."""
        if not self.text:
            return "it is empty"
        if re.search(r"\\(?:ldots|dots|cdots|vdots)(?![A-Za-z])|\.\.\.|\u2026", self.text):
            return "it leaves something out (...)"
        bare = self.text.replace(r"\{", "(").replace(r"\}", ")")
        if sum(map(bare.count, "([{")) != sum(map(bare.count, ")]}")) or not _nests(bare):
            return "its brackets do not match"
        if re.search(r"(?:[-+*/^_=<>]|\\(?:times|cdot|div|pm|le|ge|frac|sqrt))\s*$", bare):
            return "it ends in an operator"
        return ""


_OPTION = re.compile(
    r"\((?P<a>[A-J])\)(?:\s.*)?|(?P<b>[A-J])(?:[.):](?:\s.*)?)?"
    r"|(?:[Oo]ption|[Cc]hoice) (?P<c>[A-J])",
    re.DOTALL,
)
_BASED = re.compile(r"\(?([0-9A-Za-z]{1,64})\)?_\{?\s?(?:\\text\{)?([0-9]{1,2}|two|eight)\}{0,2}")


def _nests(text: str) -> bool:
    """Whether no bracket closes before one opened. Kinds may differ: [0, 1) is an interval."""
    depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return False
    return True


def _braced(text: str, command: str) -> str:
    """Write ``command(...)`` as ``command{...}``, with the parentheses matched."""
    parts: list[str] = []
    rest = 0
    closers = _closers(text)
    for found in re.finditer(re.escape(command) + r"\s?(?=\()", text):
        close = closers.get(found.end())
        if found.start() < rest or close is None:
            continue
        inner = _braced(text[found.end() + 1 : close], command) if close - rest < 200 else ""
        if inner or close == found.end() + 1:
            parts += [text[rest : found.start()], command, "{", inner, "}"]
            rest = close + 1
    return "".join([*parts, text[rest:]])


def _closers(text: str) -> dict[int, int]:
    """Where each parenthesis that opens is closed."""
    stack: list[int] = []
    closers: dict[int, int] = {}
    for at, sign in enumerate(text):
        if sign == "(":
            stack.append(at)
        elif sign == ")" and stack:
            closers[stack.pop()] = at
    return closers


# ------------------------------------------------------------------------------------- the rules

Rule = Callable[[Form, Form], "Finding | None"]  # (answer, reference)


def same_text(answer: Form, reference: Form) -> Finding | None:
    """The same text but for spacing and delimiters is the same answer, whatever it means."""
    if not reference.text:
        return Finding(UNDECIDED, "the reference is empty")
    return Finding(CORRECT, "same text") if answer.tight == reference.tight else None


def option_letter(answer: Form, reference: Form) -> Finding | None:
    """A reference that is one option's letter wants that letter."""
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
    """Two plain numbers are compared exactly; a long decimal may be a rounded fraction."""
    a, r = answer.number, reference.number
    if a is None or r is None:
        return None
    if not _same_value(a, r):
        return Finding(INCORRECT, "other number")
    left, right = _unit(a.unit), _unit(r.unit)
    if not left or not right or left == right:
        return Finding(CORRECT, "equal numbers")
    if left in _KNOWN_UNITS and right in _KNOWN_UNITS:
        return Finding(INCORRECT, "other unit")
    return Finding(UNDECIDED, "equal numbers with different words behind them")


def number_bases(answer: Form, reference: Form) -> Finding | None:
    """``204_5`` carries its base; Math-Verify would drop it."""
    a, r = _BASED.fullmatch(answer.tight), _BASED.fullmatch(reference.tight)
    if not a and not r:
        return None
    if a and a[2] == "10" and not r and reference.number:
        return equal_numbers(Form(a[1]), reference)
    if a and r and a[2] == r[2] and all(m[1].isdigit() for m in (a, r)):
        same = a[1].lstrip("0") == r[1].lstrip("0")
        return Finding(CORRECT if same else INCORRECT, "digits in one base")
    if r and not r[1].isdigit():
        return None  # a_1: a symbol with an index
    if a and not a[1].isdigit():
        return None
    return Finding(UNDECIDED, "only one side names its number base, or they differ")


def same_words(answer: Form, reference: Form) -> Finding | None:
    """Words are compared as words, never as products of symbols."""
    if not reference.is_words and not answer.is_words:
        return None
    if answer.plain and answer.plain == reference.plain:
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


def kinds(answer: Form, reference: Form) -> Finding | None:
    r"""Distinctions that Math-Verify does not make.

    It takes ``\{1, 2\}`` for ``(1, 2)`` and sin 10 degrees for sin 10, drops primes and
    transposition, and lowers the case of letters, so that A equals a.
    """
    opening = {_bracket(answer.text), _bracket(reference.text)}
    if len(opening) == 2 and "{" in opening and "" not in opening:
        return Finding(INCORRECT, "a set is no tuple or interval")
    if r"\circ" in answer.text + reference.text:
        trig = re.search(r"(?:sin|cos|tan|cot|sec|csc)", answer.text + reference.text)
        if trig and (r"\circ" in answer.text) != (r"\circ" in reference.text):
            return Finding(UNDECIDED, "degrees on one side of a trigonometric answer")
    for mark in _MARKS:
        if len(mark.findall(answer.text)) != len(mark.findall(reference.text)):
            return Finding(UNDECIDED, "primes or transposition on one side")
    letters = _letters(answer.text) | _letters(reference.text)
    if any(letter.lower() in letters for letter in letters if letter.isupper()):
        return Finding(UNDECIDED, "the same letter in both cases")
    return None


_MARKS = (re.compile(r"['\"]|\\prime"), re.compile(r"\^\s?\{?\s?(?:T(?![A-Za-z])|\\top)"))

QUICK_RULES: tuple[Rule, ...] = (
    same_text,
    option_letter,
    equal_numbers,
    number_bases,
    same_words,
    readable,
    kinds,
)


def compare_quickly(answer: Form, reference: Form) -> Finding | None:
    """Return the finding of the first rule that has one, or None: computer algebra is needed."""
    for rule in QUICK_RULES:
        finding = rule(answer, reference)
        if finding is not None:
            return finding
    return None


# A decimal with so many significant digits may stand for a fraction that it rounds.
_ROUNDED_DIGITS = 6


def _same_value(a: Number, r: Number) -> bool:
    if a.percent != r.percent:
        # 28 % is 0.28. It is also meant by a plain 28 where a percentage was asked for, but 0.5
        # is not 0.5 %: so only above 1.
        share, plain = (a, r) if a.percent else (r, a)
        return share.value / 100 == plain.value or (share.value == plain.value and plain.value > 1)
    if a.value == r.value:
        return True
    for decimal, other in ((a, r), (r, a)):
        if decimal.decimals is None or other.decimals is not None:
            continue
        step = Fraction(1, 10**decimal.decimals)
        digits = str(
            abs(decimal.value.numerator * (10**decimal.decimals) // decimal.value.denominator)
        )
        if len(digits) >= _ROUNDED_DIGITS and abs(decimal.value - other.value) <= step / 2:
            return True
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
    return _CANONICAL.get(words, words)


def _bracket(text: str) -> str:
    r"""Return the sign that encloses the text: "(" for any round or square one, "{" for \{."""
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "{"
    return "(" if text[:1] in "([" and text[-1:] in ")]" else ""


def _letters(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]", _COMMAND.sub(" ", _TEXT.sub(" ", text)))) - set("Ee")


# ---------------------------------------------------------------------- several values in an answer

_NAMED = re.compile(r"\s*(\\?[A-Za-z]+(?:_(?:\{\w+\}|\w))?)\s*=([^=<>]+)")


def _parts(latex: str) -> list[str]:
    """Split at the commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for at, sign in enumerate(latex):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            parts.append(latex[start:at])
            start = at + 1
    return [*parts, latex[start:]]


def _values_in_order(latex: str) -> str:
    """Write "x = 2, y = 3" as "(2, 3)"; anything else is given back as it is."""
    named = [_NAMED.fullmatch(part) for part in _parts(latex)]
    found = [match for match in named if match]
    if len(found) < 2 or len(found) < len(named) or len({m[1] for m in found}) < len(found):
        return latex
    return "(" + ",".join(match[2] for match in found) + ")"


def _latex_pair(answer: Form, reference: Form) -> list[str]:
    """What the worker gets; where one side orders its values, the other is held to an order too.

    Math-Verify compares a list without brackets as a set, so that "3, 2" would do for
    "x = 2, y = 3".
    """
    left, right = answer.latex, reference.latex
    if "=" not in left or "=" not in right:
        left, right = _values_in_order(left), _values_in_order(right)
    ordered = [_bracket(side) == "(" and len(_parts(side)) == 1 for side in (left, right)]
    if ordered == [True, False] and len(_parts(right)) > 1:
        right = f"({right})"
    elif ordered == [False, True] and len(_parts(left)) > 1:
        left = f"({left})"
    return [left, right]


# ------------------------------------------------------------------------------------ the verifier


class MathVerifier(Verifier):
    r"""Compares mathematical answers: quick rules, then Math-Verify in worker processes.

    The answer is the last ``\boxed{...}`` or else a stated one. Processes start with the first
    pair that needs computer algebra (about a second and 150 MB each) and are reused; call
    :meth:`close` to give them back early.
    """

    def __init__(
        self,
        cpu_seconds: float = 5.0,
        wall_seconds: float = 60.0,
        workers: int = 1,
        memory_mb: int = 2048,
        allow_stated: bool = True,
    ) -> None:
        r"""Set up; no process is started yet.

        Args:
            cpu_seconds: CPU time for one comparison, in seconds; beyond it UNDECIDED.
            wall_seconds: wall-clock time for one comparison, in seconds; a backstop for items
                that wait instead of computing.
            workers: number of worker processes.
            memory_mb: address space of a worker in MiB.
            allow_stated: whether "The answer is X" counts where no ``\boxed{X}`` stands.

        Raises:
            ImportError: Math-Verify is not installed.
            ValueError: a limit is not positive.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise ImportError(
                "MathVerifier needs Math-Verify: pip install 'math-verify[antlr4_9_3]'"
            )
        self.allow_stated = allow_stated
        self._pool = WorkerPool(
            f"{__name__}:prepare_worker",
            cpu_seconds=cpu_seconds,
            wall_seconds=wall_seconds,
            workers=workers,
            memory_mb=memory_mb,
        )
        # The pool's threads keep the pool alive, so it cannot notice by itself that it is dropped.
        weakref.finalize(self, self._pool._stop)

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """Verify a batch; see :meth:`Verifier.verify`."""
        return self.submit(completions, references, questions).result()

    def submit(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> Future[list[Verdict]]:
        """Verify a batch in the workers and return at once; see :meth:`Verifier.submit`.

        Extraction and the quick rules run before this returns (microseconds each).

        Raises:
            RuntimeError: the verifier was closed.
        """
        check_lengths(completions, references, questions)
        golds = {text: _reference(text) for text in set(references)}
        found = [extract_answer(text, self.allow_stated) for text in completions]
        verdicts: list[Finding | None] = []
        settled: dict[tuple[str, str], Finding | None] = {}
        pending: list[tuple[int, list[str]]] = []
        for index, (extracted, reference) in enumerate(zip(found, references, strict=True)):
            gold = golds[reference]
            if isinstance(gold, Finding) or extracted is None:
                no_answer = Finding(INCORRECT, "no answer")
                verdicts.append(gold if isinstance(gold, Finding) else no_answer)
                continue
            if len(extracted.text) > MAX_ANSWER_CHARS:
                verdicts.append(Finding(INCORRECT, "the answer is too long"))
                continue
            pair = (extracted.text, reference)
            if pair not in settled:
                settled[pair] = compare_quickly(Form(extracted.text), gold)
            verdicts.append(settled[pair])
            if settled[pair] is None:
                pending.append((index, _latex_pair(Form(extracted.text), gold)))

        def finish(replies: list[Reply]) -> list[Verdict]:
            for (index, _), reply in zip(pending, replies, strict=True):
                verdicts[index] = (
                    Finding(Status(reply.value[0]), reply.value[1])
                    if reply.ok
                    else Finding(UNDECIDED, reply.failure)
                )
            return [
                Verdict(
                    finding.status,
                    finding.reason,
                    extracted.text if extracted else None,
                    extracted.span if extracted else None,
                )
                for finding, extracted in zip(verdicts, found, strict=True)
                if finding is not None
            ]

        return _mapped(self._pool.submit([item for _, item in pending]), finish)

    def close(self) -> None:
        """End the worker processes. May be called twice."""
        self._pool.close()
        super().close()


def _reference(text: str) -> Form | Finding:
    r"""Read a reference: bare, in ``$...$``, or in a box, possibly at the end of a solution."""
    box = boxed(text)
    if box is not None:
        text = box.text
    elif "####" in text:
        text = text.rpartition("####")[2]
    if len(text) > MAX_ANSWER_CHARS:
        return Finding(UNDECIDED, "the reference is too long")
    return Form(text) if text.strip() else Finding(UNDECIDED, "the reference is empty")


# ------------------------------------------------------------------------ what runs in the workers


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


def compare_symbolically(pair: Sequence[str]) -> list[str]:
    """Compare two LaTeX texts by Math-Verify. Runs in a worker: unbounded in time and memory.

    Args:
        pair: the answer and the reference.

    Returns:
        A status and a reason.
    """
    answer, reference = pair
    _refused.clear()
    status, reason = _compare(answer, reference)
    if _refused and status is not CORRECT:
        # The libraries swallow the refusal, so what they said after it means nothing.
        return [UNDECIDED.value, "evaluation of text was refused"]
    return [status.value, reason]


def _compare(answer: str, reference: str) -> tuple[Status, str]:
    from math_verify import verify

    gold = _parsed(reference)
    if not gold:
        return UNDECIDED, "the reference cannot be parsed"
    target = _parsed(answer)
    if not target:
        return INCORRECT, "the answer cannot be parsed"
    # timeout_seconds=None: its time-outs are alarm signals; the pool's limits hold instead.
    if not verify(gold, target, timeout_seconds=None):
        return INCORRECT, "not equivalent by Math-Verify"
    if not _confirmed(gold[0], target[0]):
        return INCORRECT, "equal only after rounding"
    if len(_parts(answer)) != len(_parts(reference)) and not _SETS.search(answer + reference):
        # As sets, "5" and the double root "5, 5" are equal.
        return UNDECIDED, "equal as sets only: the number of values differs"
    return CORRECT, "equivalent by Math-Verify"


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
