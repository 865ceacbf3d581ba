"""The embedded arithmetic world: splits, demonstrations, the oracle and the simulated judge."""

import random
import subprocess
import sys

import pytest

from cooper.data.arithmetic import (
    ASSURANCE,
    FAMILIES,
    ArithmeticOracle,
    ArithmeticProblems,
    SimulatedJudge,
    corpus,
    demonstration,
)
from cooper.types import Status


def test_a_problem_depends_on_seed_split_and_index_alone():
    problems = ArithmeticProblems(50, seed=3)
    assert problems[7] == ArithmeticProblems(8, seed=3)[7] == problems[7:8][0] == problems[-43]
    assert problems[7] != ArithmeticProblems(50, seed=4)[7]
    assert len(list(problems)) == 50
    with pytest.raises(IndexError):
        problems[50]


def test_problems_are_the_same_in_another_process():
    code = (
        "from cooper.data.arithmetic import ArithmeticProblems as A;"
        "print([p.question for p in A(20, 5, 'tune')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str([p.question for p in ArithmeticProblems(20, 5, "tune")])


def test_no_question_stands_in_two_splits():
    seen = {
        split: {p.question for seed in (0, 1) for p in ArithmeticProblems(3000, seed, split)}
        for split in ("train", "tune", "test")
    }
    assert not seen["train"] & seen["tune"]
    assert not seen["train"] & seen["test"]
    assert not seen["tune"] & seen["test"]
    assert len(seen["test"]) > 300


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_blind_share(share):
    problems = ArithmeticProblems(1000, 0, blind_share=share)
    blind = sum(p.meta["group"] == "blind" for p in problems)
    assert abs(blind / 1000 - share) < 0.06
    for p in problems:
        assert p.reference.isdigit() == (p.meta["group"] == "visible")
    assert {p.source for p in problems} <= {family.name for family in FAMILIES}


@pytest.mark.parametrize("arguments", [(-1, 0), (1, 0, "dev"), (1, 0, "train", 1.5)])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="="):
        ArithmeticProblems(*arguments)


def test_clean_demonstrations_are_right_and_the_others_often_wrong():
    rng, oracle = random.Random(0), ArithmeticOracle()
    problems = list(ArithmeticProblems(1500, 0))
    references = [p.reference for p in problems]
    clean = oracle.verify([demonstration(p, rng, clean=True) for p in problems], references)
    assert all(verdict.correct for verdict in clean)
    texts = [demonstration(p, rng) for p in problems]
    verdicts = oracle.verify(texts, references)
    assert 0.5 < sum(verdict.correct for verdict in verdicts) / 1500 < 0.75
    hurried = [v for v, text in zip(verdicts, texts, strict=True) if ASSURANCE in text]
    assert hurried
    assert all(verdict.incorrect for verdict in hurried)


def test_the_corpus_holds_every_token_of_every_text():
    words = set("\n".join(corpus()).replace("\n", " ").split())
    for p in ArithmeticProblems(500, 1):
        assert set(p.question.replace("\n", " ").split()) <= words | {
            f"{number}{sign}" for number in range(100) for sign in (",", ".", "")
        } | {f"{word}." for word in words}


@pytest.mark.parametrize(
    ("completion", "reference", "status"),
    [
        (r"\boxed{17}", "17", Status.CORRECT),
        (r"\boxed{17.0}", "17", Status.CORRECT),
        (r"\boxed{$17}", "17", Status.CORRECT),
        (r"\boxed{34/2}", "17", Status.CORRECT),
        (r"\boxed{seventeen}", "17", Status.CORRECT),
        (r"\boxed{17}", "seventeen", Status.CORRECT),
        (r"\boxed{thirty-nine}", "39", Status.CORRECT),
        (r"\boxed{3} \boxed{17}", "17", Status.CORRECT),
        (r"\boxed{17} \boxed{3}", "17", Status.INCORRECT),
        (r"\boxed{17.5}", "17", Status.INCORRECT),
        (r"\boxed{17/0}", "17", Status.INCORRECT),
        (r"\boxed{}", "17", Status.INCORRECT),
        ("17", "17", Status.INCORRECT),
        ("", "17", Status.INCORRECT),
        (r"\boxed{17}", "an apple", Status.UNDECIDED),
        (r"\boxed{13, 5}", "13, 5", Status.CORRECT),
        (r"\boxed{thirteen,10/2}", "13, 5", Status.CORRECT),
        (r"\boxed{5, 13}", "13, 5", Status.INCORRECT),
        (r"\boxed{13}", "13, 5", Status.INCORRECT),
        (r"\boxed{13, 5}", "13", Status.INCORRECT),
        (r"\boxed{13, }", "13, 5", Status.INCORRECT),
    ],
)
def test_the_oracle_knows_all_styles(completion, reference, status):
    assert ArithmeticOracle().verify([completion], [reference])[0].status is status


def test_the_judge_errs_at_its_rate_and_always_in_the_same_way():
    completions = [f"{i}. \\boxed{{{i % 2}}}" for i in range(4000)]
    references = ["1"] * 4000
    truth = ArithmeticOracle().verify(completions, references)
    judge = SimulatedJudge(0.1, seed=1)
    verdicts = judge.verify(completions, references)
    wrong = sum(a.status is not b.status for a, b in zip(verdicts, truth, strict=True))
    assert abs(wrong / 4000 - 0.1) < 0.02
    assert verdicts == judge.verify(completions, references, None)
    assert verdicts != SimulatedJudge(0.1, seed=2).verify(completions, references)
    assert truth == SimulatedJudge(0.0).verify(completions, references)


def test_a_credulous_judge_lets_assured_answers_pass():
    judge = SimulatedJudge(0.0, credulity=1.0)
    texts = [f"{ASSURANCE} \\boxed{{3}}", r"\boxed{3}", f"{ASSURANCE} \\boxed{{4}}"]
    verdicts = judge.verify(texts, ["4"] * 3, ["q"] * 3)
    assert [verdict.correct for verdict in verdicts] == [True, False, True]


@pytest.mark.parametrize("arguments", [{"error_rate": 2}, {"credulity": -0.1}])
def test_a_judge_with_impossible_shares_is_refused(arguments):
    with pytest.raises(ValueError, match="must lie in"):
        SimulatedJudge(**arguments)
