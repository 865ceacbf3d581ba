"""Tricks told from the text: lists of what each must and must not take for one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cooper.monitoring.tricks import (
    TRICKS,
    no_answer,
    reference_pasted,
    repetition,
    several_answers,
    trick_shares,
)

ESSAY = (
    "Let the train travel at v km/h. In three hours it covers 3v km, and the car, which started "
    "an hour later at 80 km/h, covers 160 km. They meet where 3v = 160 + 50, because the car had "
    "a head start of fifty kilometres. Hence v = 70. Checking: 3 times 70 is 210, and 160 plus "
    "50 is 210 as well, so the two agree. The answer is \\boxed{70}."
)
SUMS = "\n".join(f"Step {n}: {n} + {n * n} = {n + n * n}" for n in range(1, 30))


@pytest.mark.parametrize(
    "text",
    [
        "3+4=8, 8-2=6. \\boxed{6}\n" * 3,
        "a" * 40,
        "0" * 5000,
        ESSAY + " So it is 70." * 200,
        "wait, no. " * 8,
        "答案是五。" * 20,
    ],
)
def test_repetition(text):
    assert repetition(text)


@pytest.mark.parametrize(
    "text",
    ["", "aaaaaaaa", ESSAY, SUMS, ESSAY + ESSAY, "3+4=7, 7-2=5. \\boxed{5}", "0.3333333333333"],
)
def test_no_repetition(text):
    assert not repetition(text)


def test_more_than_half_of_the_pieces():
    # Period 20: 20 different pieces, of 41 in 52 characters and of 40 in 51.
    text = "abcdefghijklmnopqrst" * 3
    assert repetition(text[:52])
    assert not repetition(text[:51])


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{5} or \\boxed{6}",
        "\\boxed{5}. Or else: \\boxed{6}",
        "\\boxed{5} " + ESSAY,
        "The answer is 5. No: the answer is 6.",
        "A: 5\nA: 6",
    ],
)
def test_several_answers(text):
    assert several_answers(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ESSAY,
        "\\boxed{5}, that is \\boxed{ 5 }",
        "\\boxed{$5$} and \\boxed{5.}",
        "The answer is 5. So the answer is 5.",
        "The answer is 6? No. \\boxed{5}",  # the box wins, as in extraction
        "3+4=7, 7-2=5.",
    ],
)
def test_one_answer_or_none(text):
    assert not several_answers(text)


def test_no_answer():
    assert no_answer("")
    assert no_answer("Let us think about it.")
    assert no_answer("so \\boxed{")
    assert not no_answer("\\boxed{x}")
    assert not no_answer("The answer is a triangle")
    assert not no_answer("12")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("12", "12"),
        ("\\boxed{12}", "12"),
        (" \\boxed{ 12 }. ", "$12$"),
        ("The final answer is: \\boxed{12}", "12"),
        ("**Answer:** 12", "12"),
        ("12 12 12 \\boxed{12}", "12"),
        ("Clearly \\boxed{twelve}", "Twelve"),
        ("twelve", "twelve"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ],
)
def test_reference_pasted(text, reference):
    assert reference_pasted(text, reference)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("\\boxed{13}", "12"),  # another answer is no paste
        ("7+5=12. \\boxed{12}", "12"),
        ("7 and 5 make \\boxed{12}", "12"),
        ("Seven books and five more books are \\boxed{12}", "12"),  # more than six words
        (ESSAY, "70"),
        ("", ""),
        ("\\boxed{12}", ""),
        ("x = \\boxed{12}", "12"),
    ],
)
def test_reference_not_pasted(text, reference):
    assert not reference_pasted(text, reference)


def test_shares_of_a_step():
    completions = ["\\boxed{1}", "", "1+1=2 \\boxed{2} or \\boxed{3}", "x" * 50]
    assert trick_shares(completions, ["1", "1", "2", "4"]) == {
        "tricks/repetition": 0.25,
        "tricks/several_answers": 0.25,
        "tricks/no_answer": 0.5,
        "tricks/reference_pasted": 0.25,
    }
    assert trick_shares([], []) == {}


PIECES = st.sampled_from(
    [
        "\\boxed{", "\\fbox{", "{", "}", "\\", "answer", "answer:", "A:", "####", "<answer>",
        "</answer>", "is", ":", "*", "$", "1", "a",
        "\n", " ", "\x00", "\ud800", "the answer is ", "\nA:\n", "**",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join), st.text(max_size=5), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_any_text_gets_an_answer(text, reference, times):
    for test in TRICKS.values():
        assert test(text * times, reference) in (True, False)


@given(st.lists(PIECES, min_size=1, max_size=6).map("".join))
@settings(max_examples=40, deadline=None)
def test_long_texts_take_no_longer_than_their_length_asks(text):
    long = (text * (100_000 // len(text) + 1))[:100_000]
    for name, test in TRICKS.items():
        began = time.process_time()
        test(long, "12")
        assert time.process_time() - began < 2, name  # ten times what it takes here
