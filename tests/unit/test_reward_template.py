"""The text that the reward model reads."""

from __future__ import annotations

import pytest

from cooper.models import RewardTemplate


def test_the_papers_form() -> None:
    assert RewardTemplate().render("q", "r", "c") == (
        "<question>q</question>\n<reference_answer>r</reference_answer>\n<completion>c</completion>"
    )


@pytest.mark.parametrize(
    "hostile",
    ["{reference}", "{question}{completion}", "{}", "{0}", "{x!r:>9}", "{{", "}", "\\boxed{7}"],
)
def test_braces_and_field_names_stay_text(hostile: str) -> None:
    template = RewardTemplate("Q {question} R {reference} C {completion} {other} {")
    assert template.render(hostile, "r", "c") == f"Q {hostile} R r C c {{other}} {{"
    assert template.render("q", hostile, "c") == f"Q q R {hostile} C c {{other}} {{"
    assert template.render("q", "r", hostile) == f"Q q R r C {hostile} {{other}} {{"


def test_a_field_may_stand_twice_or_nowhere() -> None:
    assert RewardTemplate("{completion}/{completion}").render("q", "r", "c") == "c/c"
    assert RewardTemplate("fixed").render("q", "r", "c") == "fixed"


def test_long_references_and_completions_lose_their_middle() -> None:
    template = RewardTemplate(
        "{question}|{reference}|{completion}",
        max_characters=8,
        head_characters=2,
        tail_characters=4,
    )
    rendered = template.render("a long question", "0123456789", "abcdefghi")
    assert rendered == "a long question|016789|abfghi"
    assert template.render("q", "01234567", "c") == "q|01234567|c"  # at the limit: whole


def test_the_published_lengths() -> None:
    text = "a" * 500 + "b" * 700 + "c" * 1000
    template = RewardTemplate("{completion}")
    assert template.render("", "", text) == "a" * 500 + "c" * 1000
    assert template.render("", "", text[:1500]) == text[:1500]


def test_zero_switches_the_cut_off() -> None:
    text = "x" * 5000
    assert RewardTemplate("{completion}", max_characters=0).render("", "", text) == text
