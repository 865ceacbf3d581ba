r"""The arithmetic world with families of problems that the rule cannot see at all.

In :mod:`cooper.data.arithmetic` half of the *references* are hidden from the rule, and what is
learned on the others serves those problems too. Here the blind problems are families of their
own, as intervals, units or several values are for rule verifiers: answers in words or in two
parts. Half of their demonstrations share a misunderstanding that no visible family knows, so that
nothing a verifiable reward teaches mends it. Only a learned reward says anything about them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from cooper.data import arithmetic
from cooper.data.arithmetic import NAMES, SLIP, ArithmeticProblems, in_split, in_words
from cooper.types import Problem

__all__ = ["BLIND_FAMILIES", "FamilyProblems", "corpus", "demonstration", "wrong_demonstration"]

# The question by family; ``{n}`` is a name, ``{a}`` and ``{b}`` are numbers, the first the larger.
BLIND_FAMILIES = {
    "twice": "{n} spells out twice {a} minus {b}.",
    "sum-difference": "{n} tells sum and difference of {a} and {b}.",
}
_MISREAD = 0.5  # share of their demonstrations that leave out "twice", or turn the two parts round


class FamilyProblems(ArithmeticProblems):
    """Problems of visible and of blind families, made when they are asked for.

    The arguments, the splits and what a problem depends on are those of
    :class:`ArithmeticProblems`; `blind_share` is the share of problems of blind families.
    """

    def __init__(self, size: int, seed: int, split: str = "train", blind_share: float = 0.5):
        super().__init__(size, seed, split, blind_share)
        self._visible = ArithmeticProblems(size, seed, split, blind_share=0.0)

    def problem(self, index: int) -> Problem:
        """Make problem `index`, which is not checked."""
        rng = random.Random(f"families {self.seed} {self.split} {index}")
        if rng.random() >= self.blind_share:
            return self._visible.problem(index)
        family = rng.choice(list(BLIND_FAMILIES))
        while True:
            b, a = sorted((rng.randint(2, 9), rng.randint(2, 9)))
            question = BLIND_FAMILIES[family].format(n=rng.choice(NAMES), a=a, b=b)
            if a > b and in_split(question, self.split):
                break
        return Problem(
            id=f"families-{self.split}-{self.seed}-{index}",
            question=question,
            reference=in_words(2 * a - b) if family == "twice" else f"{a + b}, {a - b}",
            source=family,
            meta={"group": "blind"},
        )


def demonstration(problem: Problem, rng: random.Random, clean: bool = False) -> str:
    """Write a warm-start demonstration.

    Args:
        problem: a problem of :class:`FamilyProblems`.
        rng: source of the errors and of the style.
        clean: without errors.

    Returns:
        The completion, its answer in a box.
    """
    if problem.source not in BLIND_FAMILIES:
        return arithmetic.demonstration(problem, rng, clean)
    misread, slip = rng.random() < _MISREAD, rng.random() < SLIP
    delta = rng.choice((-2, -1, 1, 2)) if slip else 0
    return _solution(problem, misread and not clean, 0 if clean else delta)


def wrong_demonstration(problem: Problem, rng: random.Random) -> str:
    """Write a worked solution with one plausible mistake: what a control token asks for."""
    if problem.source not in BLIND_FAMILIES:
        return arithmetic.wrong_demonstration(problem, rng)
    misread = rng.random() < 0.5
    return _solution(problem, misread, 0 if misread else rng.choice((1, 2)))


def _solution(problem: Problem, misread: bool, delta: int) -> str:
    """Solve a problem of a blind family: misread or not, the last result off by `delta`."""
    a, b = (int(number) for number in re.findall(r"\d+", problem.question))
    if problem.source == "twice":
        first = "" if misread else f"2*{a}={2 * a}, "
        factor = a if misread else 2 * a
        value = max(0, factor - b + delta)
        return f"{first}{factor}-{b}={value}. \\boxed{{{in_words(value)}}}"
    total, rest = a + b, max(0, a - b + delta)
    parts = (rest, total) if misread else (total, rest)
    return f"{a}+{b}={total}, {a}-{b}={rest}. \\boxed{{{parts[0]}, {parts[1]}}}"


def corpus() -> Iterator[str]:
    """Texts that hold every word of this world, to train a tokenizer on."""
    yield from arithmetic.corpus()
    yield "\\boxed{13, 5}"
    for template in BLIND_FAMILIES.values():
        for name in NAMES:
            yield template.format(n=name, a=3, b=2)
