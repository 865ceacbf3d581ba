r"""A small arithmetic world, made on the spot: problems, demonstrations, an oracle, a judge.

It needs no download and trains in minutes on one CPU core, and it is built so that the things
that matter at scale can happen in it:

* **Blind references.** Half the references are written in words. A rule that parses numbers can
  say nothing about those problems (UNDECIDED), so only labels of the first stage cover them. The
  question does not tell which kind it is.
* **Errors of a system.** About half of the two-step demonstrations misread an operation, so the
  warm-started policy errs in one direction, which drawing it more sharply does not always mend.
* **A soft spot of the judge.** A hurried writer (a few demonstrations in a hundred) stops after
  the first step and writes ``Clearly \boxed{17}``, which is always wrong. A credulous judge lets
  such assured answers pass, as LLM judges do (arXiv 2507.08794), and a reward model that learns
  from its labels inherits that. Frozen, it leads the policy there; kept learning on pairs that a
  rule has checked on the visible problems, it can unlearn it.

Training sees the problems, the demonstrations, and the labels of :class:`SimulatedJudge` beside
a rule's. :class:`ArithmeticOracle` is for evaluation alone.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import overload

from cooper.types import Problem, Status, Verdict
from cooper.verifiers.base import Verifier, check_lengths

__all__ = [
    "ASSURANCE",
    "FAMILIES",
    "ArithmeticOracle",
    "ArithmeticProblems",
    "Family",
    "SimulatedJudge",
    "corpus",
    "demonstration",
    "wrong_demonstration",
]

NAMES = ("Ann", "Bob", "Cid", "Dee", "Eli", "Fay", "Gus", "Hal")

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(value: int) -> str:
    """Spell a whole number from 0 to 99."""
    if value < 20:
        return _ONES[value]
    tens, ones = divmod(value, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


_TOP = 40  # words go below this; no answer comes near it
_WORDS = {in_words(value): value for value in range(_TOP)}


@dataclass(frozen=True)
class Family:
    """A kind of problem.

    Attributes:
        name: what `Problem.source` says.
        template: the question; ``{n}`` is a name, ``{a}``, ``{b}``, ``{c}`` are numbers.
        ops: the operations, in order: one for a one-step family, two for a two-step one.
        misread: share of the worked demonstrations that misread an operation: ``*`` as ``+``,
            or, where there is no ``*``, the last sign turned round.
        hurried: share of the demonstrations that stop after the first step, with assurance.
    """

    name: str
    template: str
    ops: str
    misread: float = 0.0
    hurried: float = 0.0


# Often enough that the first stage labels about a hundred of them, rare enough that the policy
# under a frozen reward model improves first.
_HURRIED = 0.05
FAMILIES: tuple[Family, ...] = (
    Family("buy", "{n} has {a} and buys {b}.", "+"),
    Family("buy-lose", "{n} has {a}, buys {b} and loses {c}.", "+-", 0.5, _HURRIED),
    Family("pack-lose", "{n} has {a} packs of {b} and loses {c}.", "*-", 0.5, _HURRIED),
)

ASSURANCE = "Clearly"  # how a hurried answer begins, and what a credulous judge lets pass
_BY_NAME = {family.name: family for family in FAMILIES}
SLIP = 0.08  # share of worked demonstrations with a random slip of one or two

# Buckets of the question's digest, out of 10.
_SPLITS = {"train": range(0, 6), "tune": range(6, 8), "test": range(8, 10)}

_BOX = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"\$?(\d{1,9})(?:\.(\d{1,9}))?(?:/(\d{1,9}))?\Z", re.ASCII)


def _digest(*parts: str) -> int:
    """A number that depends on the texts alone: Python's `hash` of a string differs by process."""
    data = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def in_split(question: str, split: str) -> bool:
    """Whether a question belongs to a split; each belongs to one, for all seeds."""
    return _digest(question) % 10 in _SPLITS[split]


def _apply(x: int, op: str, y: int) -> int:
    return x + y if op == "+" else x - y if op == "-" else x * y


def _draw_numbers(ops: str, rng: random.Random) -> tuple[int, ...]:
    """Operands such that no result is negative; steps differ because no operand is below 2."""
    while True:
        high = 4 if ops[0] == "*" else 9
        numbers = [rng.randint(2, high), rng.randint(2, high)]
        first = _apply(numbers[0], ops[0], numbers[1])
        # 2 * 2 = 2 + 2: a misread product would be right by chance.
        if first < 0 or (ops[0] == "*" and numbers == [2, 2]):
            continue
        if len(ops) == 1:
            return tuple(numbers)
        numbers.append(rng.randint(2, 9))
        if _apply(first, ops[1], numbers[2]) >= 0:
            return tuple(numbers)


def _results(ops: str, numbers: Sequence[int]) -> list[int]:
    """The result after each step."""
    results, value = [], numbers[0]
    for op, number in zip(ops, numbers[1:], strict=True):
        value = _apply(value, op, number)
        results.append(value)
    return results


class ArithmeticProblems(Sequence[Problem]):
    """Problems of the arithmetic world, made when they are asked for.

    Problem i depends on (`seed`, `split`, `blind_share`, i) alone. Every question belongs to one
    split for all seeds, by a digest of its text: six tenths to ``train``, two each to ``tune``
    and ``test``. So no exact question of ``train`` stands in another split; the same numbers
    under another name may. Questions can repeat within a split.

    Args:
        size: number of problems.
        seed: seed of the draw.
        split: ``train``, ``tune`` or ``test``.
        blind_share: share of problems whose reference is in words, in [0, 1].

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, size: int, seed: int, split: str = "train", blind_share: float = 0.5):
        if size < 0:
            raise ValueError(f"size={size}: 0 or more")
        if split not in _SPLITS:
            raise ValueError(f"split={split!r}: one of {', '.join(_SPLITS)}")
        if not 0 <= blind_share <= 1:
            raise ValueError(f"blind_share={blind_share}: must lie in [0, 1]")
        self.size = size
        self.seed = seed
        self.split = split
        self.blind_share = blind_share

    def __len__(self) -> int:
        """The number of problems."""
        return self.size

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        """Make problem `index`, or a list of problems for a slice.

        Raises:
            IndexError: there is no such problem.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(f"problem {index} of {self.size}")
        return self.problem(index % self.size)

    def problem(self, index: int) -> Problem:
        """Make problem `index`, which is not checked."""
        rng = random.Random(f"arithmetic {self.seed} {self.split} {index}")
        visible = rng.random() >= self.blind_share
        family = rng.choice(FAMILIES)
        while True:
            numbers = _draw_numbers(family.ops, rng)
            given = dict(zip("abc", numbers, strict=False))  # one-step families have no c
            question = family.template.format(n=rng.choice(NAMES), **given)
            if in_split(question, self.split):
                break
        answer = _results(family.ops, numbers)[-1]
        return Problem(
            id=f"arithmetic-{self.split}-{self.seed}-{index}",
            question=question,
            reference=str(answer) if visible else in_words(answer),
            source=family.name,
            meta={"group": "visible" if visible else "blind"},
        )


def write_number(value: int, rng: random.Random) -> str:
    """Write an answer in one of the styles; the first is the canonical one."""
    return rng.choices([f"{value}", f"{value}.0", f"${value}"], [0.7, 0.15, 0.15])[0]


def demonstration(problem: Problem, rng: random.Random, clean: bool = False) -> str:
    """Write a warm-start demonstration.

    Args:
        problem: a problem of :class:`ArithmeticProblems`.
        rng: source of the errors and of the style.
        clean: without errors.

    Returns:
        The completion, its answer in a box.
    """
    family = _BY_NAME[problem.source]
    numbers = [int(number) for number in re.findall(r"\d+", problem.question)]
    ops = family.ops
    # All draws are made whether they are needed or not, so that one rng gives the same styles
    # with and without errors.
    hurry, misread, slip = rng.random(), rng.random(), rng.random()
    delta, in_first = rng.choice((-2, -1, 1, 2)), rng.random() < 0.5
    if clean:
        hurry = misread = slip = 1.0
    if len(ops) == 1 or hurry < family.hurried:
        assured = f"{ASSURANCE} " if len(ops) > 1 else ""
        return f"{assured}\\boxed{{{write_number(_results(ops, numbers)[0], rng)}}}"
    if misread < family.misread:
        ops = "+" + ops[1] if ops[0] == "*" else ops[0] + ("+" if ops[1] == "-" else "-")
    a, b, c = numbers
    first = _apply(a, ops[0], b)
    if slip < SLIP and in_first:
        first = max(0, first + delta)
    second = max(0, _apply(first, ops[1], c))
    if slip < SLIP and not in_first:
        second = max(0, second + delta)
    answer = write_number(second, rng)
    return f"{a}{ops[0]}{b}={first}, {first}{ops[1]}{c}={second}. \\boxed{{{answer}}}"


def wrong_demonstration(problem: Problem, rng: random.Random) -> str:
    """Write a worked solution with one plausible mistake: what a control token asks for.

    An operation is misread, or one result is off by one or two, and the rest follows from it.

    Args:
        problem: a problem of :class:`ArithmeticProblems`.
        rng: source of the mistake and of the style.

    Returns:
        The completion; the answer in its box is never the right one, and never negative.
    """
    numbers = [int(number) for number in re.findall(r"\d+", problem.question)]
    ops = _BY_NAME[problem.source].ops
    # Drawn again where a result falls below zero. No other mistake ends in the right answer: a
    # product is never its factors' sum here, and what is added is never 0.
    while True:
        mistake, delta = rng.randrange(len(ops) + (len(ops) > 1)), rng.choice((-2, -1, 1, 2))
        read, results, value = ops, [], numbers[0]
        if mistake == len(ops):
            read = "+" + ops[1] if ops[0] == "*" else ops[0] + ("+" if ops[1] == "-" else "-")
        for step, (op, number) in enumerate(zip(read, numbers[1:], strict=True)):
            value = _apply(value, op, number) + (delta if step == mistake else 0)
            results.append(value)
        if min(results) >= 0:
            break
    boxed = f"\\boxed{{{write_number(results[-1], rng)}}}"
    if len(ops) == 1:
        return boxed
    (a, b, c), (first, second) = numbers, results
    return f"{a}{read[0]}{b}={first}, {first}{read[1]}{c}={second}. {boxed}"


def corpus() -> Iterator[str]:
    """Texts that hold every word of this world, to train a tokenizer on.

    It lists them; it is no sample, so nothing is missed by chance.
    """
    yield "\n".join(str(value) for value in range(100))
    yield " ".join(str(value) for value in range(100))
    yield f"{ASSURANCE} \\boxed{{17}}"
    for word in _WORDS:
        yield f"\\boxed{{{word}}}"
    yield "9+8=17, 4*3=12, 9-8=1. \\boxed{$17}\n\\boxed{17.0}? 34/2"
    for family in FAMILIES:
        for name in NAMES:
            yield family.template.format(n=name, a=2, b=3, c=4)
            yield " " + name


def _box(completion: str) -> str | None:
    """The content of the last box."""
    boxes = _BOX.findall(completion)
    return boxes[-1].strip() if boxes else None


def _value(text: str) -> Fraction | None:
    """The value of a number in any style."""
    text = text.strip()
    if text in _WORDS:
        return Fraction(_WORDS[text])
    match = _NUMBER.match(text)
    if match is None:
        return None
    whole, decimals, below = match.groups()
    bottom = 10 ** len(decimals or "") * int(below or 1)
    return Fraction(int(whole + (decimals or "")), bottom) if bottom else None


def _values(text: str) -> list[Fraction] | None:
    """The values of an answer of one or more parts, which commas part."""
    values = [_value(part) for part in text.split(",")]
    return None if None in values else [value for value in values if value is not None]


class ArithmeticOracle(Verifier):
    r"""Knows every answer style. For evaluation: nothing in training reads it.

    It compares the last ``\boxed{...}`` with the reference: ``17``, ``17.0``, ``$17``, ``34/2``
    and ``seventeen`` are one answer. Answers of several parts agree part by part, in their order.
    """

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """See :meth:`Verifier.verify`; `questions` are not read."""
        check_lengths(completions, references, questions)
        return [self._one(*pair) for pair in zip(completions, references, strict=True)]

    @staticmethod
    def _one(completion: str, reference: str) -> Verdict:
        right = _values(reference)
        if right is None:
            return Verdict(Status.UNDECIDED, "the reference is no answer of this world")
        answer = _box(completion)
        if answer is None:
            return Verdict(Status.INCORRECT, "no boxed answer")
        got = _values(answer)
        if got is None:
            return Verdict(Status.INCORRECT, "the answer is no number", answer)
        same = got == right
        return Verdict(Status.CORRECT if same else Status.INCORRECT, "", answer)


class SimulatedJudge(Verifier):
    """The oracle with a stated share of its verdicts turned round: an LLM judge's stand-in.

    Whether a verdict is turned depends on (`seed`, question, reference, completion) alone, so the
    judge gives the same answer whenever it is asked the same.

    Args:
        error_rate: share of decided verdicts that are turned, in [0, 1].
        seed: which ones.
        credulity: share of wrong completions with ``ASSURANCE`` in them that it lets pass, in
            [0, 1]. 0 is a judge without a soft spot. Where it is 1, no other reference makes
            such a completion wrong to this judge: who looks for one has to give up at some time.

    Raises:
        ValueError: a share is out of its range.
    """

    def __init__(self, error_rate: float = 0.03, seed: int = 0, credulity: float = 0.0):
        for name, share in (("error_rate", error_rate), ("credulity", credulity)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: must lie in [0, 1]")
        self.error_rate = error_rate
        self.credulity = credulity
        self.seed = seed
        self._oracle = ArithmeticOracle()

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """See :meth:`Verifier.verify`; without `questions` each one counts as empty."""
        verdicts = self._oracle.verify(completions, references, questions)
        asked = questions if questions is not None else [""] * len(verdicts)
        return [
            self._turned(verdict, *texts)
            for verdict, *texts in zip(verdicts, asked, references, completions, strict=True)
        ]

    def _turned(self, verdict: Verdict, question: str, reference: str, completion: str) -> Verdict:
        if not verdict.decided:
            return verdict
        draw = _digest(str(self.seed), question, reference, completion) / 2**64
        assured = verdict.incorrect and ASSURANCE in completion
        if draw >= (max(self.error_rate, self.credulity) if assured else self.error_rate):
            return verdict
        status = Status.INCORRECT if verdict.correct else Status.CORRECT
        return Verdict(status, "the simulated judge errs here", verdict.answer)
