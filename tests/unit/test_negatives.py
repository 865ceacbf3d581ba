"""Where negatives come from: own wrong completions, edits, and a mixture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch

from cooper.negatives import (
    MixedNegatives,
    NegativeGenerator,
    PerturbNegatives,
    SelfNegatives,
    TruncateNegatives,
)
from cooper.types import Negative, NegativeRequest, Problem, Status, Verdict
from cooper.verifiers import NumericVerifier, extract_answer

VerdictsOf = Callable[[str], list[Verdict]]

GSM8K = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"
)
LATEX = (
    "The slope is $\\frac{8 - 2}{5 - 1} = \\frac{6}{4}$, so the line is $y = \\frac{3}{2}x$.\n"
    "The answer is $\\boxed{\\frac{3}{2}}$."
)
SEEDS = range(30)


def request(
    chosen: str, group: Sequence[str] = (), verdicts: Sequence[Verdict] = ()
) -> NegativeRequest:
    return NegativeRequest(Problem("p", "q", "72"), chosen, group or [chosen], verdicts)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturbed(edit: str, text: str) -> list[str | None]:
    generator = PerturbNegatives([edit])
    return [generator.generate([request(text)], rng(seed))[0].text for seed in SEEDS]


# ------------------------------------------------------------------------------------------ self


def test_self_takes_only_what_is_decidedly_wrong(verdicts_of: VerdictsOf) -> None:
    asked = request("a", ["a", "b", "c", "d"], verdicts_of("CIUI"))
    drawn = {SelfNegatives().generate([asked], rng(seed))[0].text for seed in SEEDS}
    assert drawn == {"b", "d"}


def test_hard_negative_is_the_wrong_one_that_scores_highest(verdicts_of: VerdictsOf) -> None:
    asked = request("a", ["a", "b", "c", "d"], verdicts_of("CIUI"))
    hard = SelfNegatives(choose="highest_scored")
    scored = dataclasses.replace(asked, scores=[0.99, 0.2, 0.98, 0.7])
    assert {hard.generate([scored], rng(seed))[0].text for seed in SEEDS} == {"d"}
    # Without a reward model there is no hardest one.
    assert {hard.generate([asked], rng(seed))[0].text for seed in SEEDS} == {"b", "d"}


def test_self_finds_nothing_among_right_and_undecided(verdicts_of: VerdictsOf) -> None:
    asked = request("a", ["a", "b"], verdicts_of("CU"))
    assert SelfNegatives().generate([asked], rng()) == [Negative(None, "self")]


# --------------------------------------------------------------------------------------- perturb


def split(text: str) -> tuple[str, str, str]:
    """Working, answer, rest."""
    found = extract_answer(text)
    start, end = found.span
    return text[:start], text[start:end], text[end:]


@pytest.mark.parametrize("text", [GSM8K, LATEX])
def test_answer_edit_changes_the_answer_and_nothing_else(text: str) -> None:
    working, answer, rest = split(text)
    edits = perturbed("answer", text)
    assert len(set(edits)) > 3
    for edited in edits:
        new_working, new_answer, new_rest = split(edited)
        assert (new_working, new_rest) == (working, rest)
        assert new_answer != answer


@pytest.mark.parametrize("text", [GSM8K, LATEX])
def test_step_edit_changes_the_working_and_the_answer(text: str) -> None:
    working, answer, rest = split(text)
    edits = perturbed("step", text)
    assert len(set(edits)) > 3
    for edited in edits:
        new_working, new_answer, new_rest = split(edited)
        assert new_working != working
        assert new_answer != answer
        assert new_rest == rest


def test_step_edit_carries_a_changed_number_on() -> None:
    # "24" is the only number after the first third; each later mention of it changes alike.
    for edited in perturbed("step", "1 and 24, so 24. 124 stays. \\boxed{24}"):
        working, answer, _ = split(edited)
        if "1 and 24," not in edited:
            number = working.split()[2].strip(",")
            assert f"so {number}." in working
            assert answer == number
            assert "124 stays" in working


def test_edits_are_wrong_to_the_verifier() -> None:
    edits = perturbed("answer", GSM8K) + perturbed("step", GSM8K)
    verdicts = NumericVerifier().verify([e or "" for e in edits], ["72"] * len(edits))
    assert all(verdict.incorrect for verdict in verdicts)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("So \\boxed{yes}.", {"So \\boxed{no}."}),
        ("So \\boxed{True}.", {"So \\boxed{False}."}),
        ("So \\boxed{odd}.", {"So \\boxed{even}."}),
        ("So \\boxed{B}.", {f"So \\boxed{{{c}}}." for c in "ACDE"}),
        ("So \\boxed{0}.", {f"So \\boxed{{{n}}}." for n in (1, 2, 10)}),
        ("So \\boxed{1.50}.", {f"So \\boxed{{{n}.50}}." for n in (0, 2, 3, 11)}),
    ],
)
def test_answer_edits_keep_the_form(text: str, allowed: set[str]) -> None:
    assert set(perturbed("answer", text)) == allowed


@pytest.mark.parametrize("edit", ["answer", "step"])
@pytest.mark.parametrize("text", ["I do not know.", "", "I have 3 ideas but no result"])
def test_without_an_answer_there_is_no_text(edit: str, text: str) -> None:
    assert perturbed(edit, text) == [None] * len(SEEDS)


def test_nothing_to_edit() -> None:
    assert set(perturbed("answer", "So \\boxed{Paris}.")) == {None}
    assert set(perturbed("step", "So \\boxed{7}.")) == {None}  # no number in the working


@pytest.mark.parametrize("edit", ["answer", "step"])
@pytest.mark.parametrize("text", [f"{'9' * 5000} so \\boxed{{7}}", f"1 so \\boxed{{{'9' * 5000}}}"])
def test_a_number_of_thousands_of_digits_does_not_stop_the_run(edit: str, text: str) -> None:
    """Python refuses int() beyond 4300 digits; a policy under RL writes such texts."""
    (negative,) = PerturbNegatives([edit]).generate([request(text)], rng())
    assert negative.text != text


def test_edits_are_drawn_and_named() -> None:
    both = PerturbNegatives()
    sources = {both.generate([request(GSM8K)], rng(seed))[0].source for seed in SEEDS}
    assert sources == {"perturb:answer", "perturb:step"}
    with pytest.raises(ValueError, match=r"negatives\.edits"):
        PerturbNegatives(["sign"])
    with pytest.raises(ValueError, match=r"negatives\.edits=\[\]"):
        PerturbNegatives([])


# -------------------------------------------------------------------------------------- truncate


def right(text: str) -> NegativeRequest:
    return request(text, [text], [Verdict(Status.CORRECT)])


def beginnings(text: str, min_share: float = 0.0) -> set[str | None]:
    part = TruncateNegatives(min_share)
    return {part.generate([right(text)], rng(seed))[0].text for seed in range(60)}


def test_truncate_cuts_behind_a_word_before_the_answer() -> None:
    text = "4*3=12, 12-7=5.\n\nSo it is \\boxed{5} apples."
    parts = ["4*3=12,", " 12-7=5.", "\n\nSo", " it", " is"]
    assert beginnings(text) == {"".join(parts[:n]) for n in range(1, 6)}
    # 33 characters stand before "5", and the words end behind 7, 15, 19, 22 and 25 of them.
    assert beginnings(text, 0.4) == {"".join(parts[:n]) for n in range(2, 6)}  # 13.2 and more
    assert beginnings(text, 0.6) == {"".join(parts[:n]) for n in range(4, 6)}  # 19.8 and more
    assert beginnings(text, 0.8) == {None}  # 26.4 and more


def test_truncate_keeps_no_earlier_statement_of_the_answer() -> None:
    text = "The answer is 7, for 3 + 4 makes that much. So \\boxed{7}."
    assert beginnings(text) == {"The", "The answer", "The answer is"}


def test_truncate_takes_the_answer_where_the_verifier_saw_it() -> None:
    text = "It is 5 and not \\boxed{6} at all."
    seen = Verdict(Status.CORRECT, answer="5", span=(6, 7))
    asked = request(text, ["\\boxed{6}", text], [Verdict(Status.INCORRECT), seen])
    texts = {TruncateNegatives().generate([asked], rng(seed))[0].text for seed in SEEDS}
    assert texts == {"It", "It is"}


def test_truncate_never_cuts_inside_a_character() -> None:
    # No spaces: between any two characters, but not before an accent, in a number or a command.
    assert beginnings("e\u0301\u4e00\u4e8c12\\boxed{7}") == {
        "e\u0301", "e\u0301\u4e00", "e\u0301\u4e00\u4e8c", "e\u0301\u4e00\u4e8c12",
        "e\u0301\u4e00\u4e8c12\\boxed",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["\\boxed{7}", "", "I do not know.", "answer is 7. " * 9000])
def test_truncate_without_a_place_to_cut(text: str) -> None:
    assert beginnings(text) <= {None, "answer", "answer is"}
    assert None in beginnings(text)


def test_truncated_completions_are_wrong_to_the_verifier() -> None:
    texts = [text or "" for text in beginnings(GSM8K) | beginnings(LATEX)]
    assert len(texts) > 20
    verdicts = NumericVerifier().verify(texts, ["72"] * len(texts))
    assert all(verdict.incorrect for verdict in verdicts)


@pytest.mark.parametrize("share", [-0.1, 1, 2, float("nan")])
def test_truncate_refuses_a_share_that_keeps_the_answer(share: float) -> None:
    with pytest.raises(ValueError, match=r"negatives\.min_share=.* lower it"):
        TruncateNegatives(share)


# ----------------------------------------------------------------------------------------- mixed


class Says(NegativeGenerator):
    """Gives one text for every request, or none to problems it does not like."""

    def __init__(self, text: str | None, refuses: str = "") -> None:
        self.text = text
        self.refuses = refuses
        self.asked: list[str] = []
        self.closed = 0
        self.bound: list[object] = []

    def bind(self, policy: object, start: object) -> None:
        self.bound = [policy, start]

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        self.asked += [r.chosen for r in requests]
        return [
            Negative(None if r.chosen in self.refuses else self.text, str(self.text))
            for r in requests
        ]

    def close(self) -> None:
        self.closed += 1


def shares(weights: dict[str, float], count: int = 2000) -> dict[str, float]:
    mixed = MixedNegatives({name: Says(name) for name in weights}, weights)
    texts = [n.text for n in mixed.generate([request("x")] * count, rng())]
    return {name: texts.count(name) / count for name in weights}


def test_weights_are_shares() -> None:
    got = shares({"a": 3, "b": 1})
    assert got["a"] == pytest.approx(0.75, abs=0.04)  # four standard errors
    assert shares({"a": 0, "b": 2}) == {"a": 0, "b": 1}
    assert shares({"a": 1, "b": 0}) == {"a": 1, "b": 0}


def test_the_others_follow_in_the_order_written() -> None:
    parts = {"a": Says("a"), "b": Says(None), "c": Says("c"), "d": Says("d")}
    mixed = MixedNegatives(parts, {"a": 0, "b": 1, "c": 0, "d": 0})
    assert [n.text for n in mixed.generate([request("x")] * 3, rng())] == ["a"] * 3
    parts = {"b": Says(None), "c": Says("c"), "a": Says("a")}
    mixed = MixedNegatives(parts, {"a": 0, "b": 1, "c": 0})
    assert [n.text for n in mixed.generate([request("x")] * 3, rng())] == ["c"] * 3


def test_only_what_is_missing_is_asked_of_the_others() -> None:
    first, second = Says("first", refuses="y"), Says("second")
    mixed = MixedNegatives({"first": first, "second": second}, {"first": 1, "second": 0})
    got = mixed.generate([request("x"), request("y"), request("z")], rng())
    assert [n.text for n in got] == ["first", "second", "first"]
    assert second.asked == ["y"]


def test_nobody_finds_anything() -> None:
    mixed = MixedNegatives({"a": Says(None), "b": Says(None)}, {"a": 1, "b": 1})
    assert [n.text for n in mixed.generate([request("x")] * 2, rng())] == [None, None]


@pytest.mark.parametrize(
    "weights", [{"a": 1}, {"a": 1, "c": 1}, {"a": -1, "b": 2}, {"a": 0, "b": 0}, {}]
)
def test_weights_are_checked(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"negatives\.weights"):
        MixedNegatives({"a": Says("a"), "b": Says("b")}, weights)


def test_closing_closes_every_part() -> None:
    parts = {"a": Says("a"), "b": Says("b")}
    MixedNegatives(parts, {"a": 1, "b": 1}).close()
    assert [part.closed for part in parts.values()] == [1, 1]


def test_models_are_passed_on_to_every_part() -> None:
    parts = {"a": Says("a"), "b": Says("b")}
    policy, start = object(), object()
    MixedNegatives(parts, {"a": 1, "b": 1}).bind(policy, start)
    assert [part.bound for part in parts.values()] == [[policy, start]] * 2


def test_truncations_and_edits_stand_in_for_each_other() -> None:
    parts = {"truncate": TruncateNegatives(), "perturb": PerturbNegatives(["answer"])}
    mixed = MixedNegatives(parts, {"truncate": 1, "perturb": 0})
    got = mixed.generate([right("So it is \\boxed{5}"), right("\\boxed{5}")], rng())
    assert [negative.source for negative in got] == ["truncate", "perturb:answer"]
