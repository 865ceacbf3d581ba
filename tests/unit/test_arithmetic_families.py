"""Families of problems that the rule cannot see."""

import random
import re

import pytest

from cooper.data.arithmetic import ArithmeticOracle, ArithmeticProblems
from cooper.data.arithmetic_families import (
    BLIND_FAMILIES,
    FamilyProblems,
    corpus,
    demonstration,
    wrong_demonstration,
)
from cooper.types import Problem
from cooper.verifiers import NumericVerifier


def problem(source: str, question: str, reference: str) -> Problem:
    return Problem(id="p", question=question, reference=reference, source=source)


TWICE = problem("twice", "Ann spells out twice 7 minus 5.", "nine")
BOTH = problem("sum-difference", "Ann tells sum and difference of 9 and 4.", "13, 5")


def test_a_problem_depends_on_seed_split_and_index_alone() -> None:
    problems = FamilyProblems(60, seed=3)
    assert problems[7] == FamilyProblems(8, seed=3)[7] == problems[7:8][0] == problems[-53]
    assert list(problems) != list(FamilyProblems(60, seed=4))
    with pytest.raises(IndexError):
        problems[60]


def test_half_the_problems_are_blind_and_the_rule_sees_none_of_them() -> None:
    problems = list(FamilyProblems(1000, 0))
    verdicts = NumericVerifier(allow_stated=False).verify(
        [demonstration(p, random.Random(0), clean=True) for p in problems],
        [p.reference for p in problems],
    )
    blind = [p.meta["group"] == "blind" for p in problems]
    assert abs(sum(blind) / 1000 - 0.5) < 0.06
    assert [not v.decided for v in verdicts] == blind
    assert [p.source in BLIND_FAMILIES for p in problems] == blind
    assert not any(p.source in BLIND_FAMILIES for p in FamilyProblems(200, 0, blind_share=0.0))


def test_no_question_stands_in_two_splits_and_visible_ones_are_those_of_the_other_world() -> None:
    seen = {
        split: {p.question for p in FamilyProblems(2000, 0, split)}
        for split in ("train", "tune", "test")
    }
    assert not seen["train"] & (seen["tune"] | seen["test"])
    assert not seen["tune"] & seen["test"]
    plain = ArithmeticProblems(50, 0, blind_share=0.0)
    for index, p in enumerate(FamilyProblems(50, 0)):
        assert p.source in BLIND_FAMILIES or p == plain[index]


@pytest.mark.parametrize(("p", "right", "misread"), [
    (TWICE, r"2*7=14, 14-5=9. \boxed{nine}", r"7-5=2. \boxed{two}"),
    (BOTH, r"9+4=13, 9-4=5. \boxed{13, 5}", r"9+4=13, 9-4=5. \boxed{5, 13}"),
])  # fmt: skip
def test_demonstrations_of_blind_families(p: Problem, right: str, misread: str) -> None:
    rng = random.Random(0)
    assert {demonstration(p, rng, clean=True) for _ in range(20)} == {right}
    texts = [demonstration(p, rng) for _ in range(2000)]
    assert abs(texts.count(right) / 2000 - 0.5 * 0.92) < 0.04
    assert abs(texts.count(misread) / 2000 - 0.5 * 0.92) < 0.04


def test_clean_demonstrations_are_right_and_wrong_ones_wrong() -> None:
    rng, oracle = random.Random(0), ArithmeticOracle()
    problems = list(FamilyProblems(1500, 0))
    references = [p.reference for p in problems]
    clean = oracle.verify([demonstration(p, rng, clean=True) for p in problems], references)
    assert all(verdict.correct for verdict in clean)
    wrong = oracle.verify([wrong_demonstration(p, rng) for p in problems], references)
    assert all(verdict.incorrect for verdict in wrong)


def test_the_corpus_holds_every_word() -> None:
    words = set(re.findall(r"[A-Za-z]+", "\n".join(corpus())))
    rng = random.Random(0)
    for p in FamilyProblems(500, 1):
        texts = f"{p.question} {p.reference} {demonstration(p, rng)} {wrong_demonstration(p, rng)}"
        assert set(re.findall(r"[A-Za-z]+", texts)) <= words
