"""Letters of options: where they are found, and what the choice verifier makes of them."""

from __future__ import annotations

import pytest

from cooper.types import Status
from cooper.verifiers import ChoiceVerifier
from cooper.verifiers.choice import stated_option


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"so \boxed{\text{(C)}}", "C"),
        (r"\boxed{B. 12 apples}", "B"),
        (r"\boxed{12}", None),
        ("The answer is (D).", "D"),
        ("The answer is B: 12.", "B"),
        ("Answer: C", "C"),
        ("work\nSolution: Choice_B", "B"),
        ("Only choice D fits.", "D"),
        ("Of the options, option (A) is right.", "A"),
        ("work\n(B)", "B"),
        ("C", "C"),
        ("**C**", "C"),
        ("Choices A and B both fit.", None),
        ("It is not choice A.", None),
        ("choice A is wrong", None),
        ("A cat has 4 legs.", None),
        ("", None),
    ],
)
def test_stated_option(text: str, letter: str | None) -> None:
    found = stated_option(text)
    assert (found.text if found else None) == letter
    if found:
        assert text[slice(*found.span)] == found.text


@pytest.mark.parametrize(
    ("completion", "reference", "status"),
    [
        (r"\boxed{B}", "(B)", Status.CORRECT),
        (r"\boxed{B}", r"\boxed{\text{B}}", Status.CORRECT),
        ("Solution: Choice_C", "B. 12", Status.INCORRECT),
        ("no idea", "B", Status.INCORRECT),
        (r"\boxed{B}", "12", Status.UNDECIDED),
        (r"\boxed{E}", "E", Status.UNDECIDED),
    ],
)
def test_choice(completion: str, reference: str, status: Status) -> None:
    (verdict,) = ChoiceVerifier(letters="ABCD").verify([completion], [reference])
    assert verdict.status is status
    assert verdict.reason


@pytest.mark.parametrize("letters", ["", "AAB", "abc", "AZ"])
def test_letters_are_checked(letters: str) -> None:
    with pytest.raises(ValueError, match=f"letters={letters}: give different capital letters"):
        ChoiceVerifier(letters=letters)


def test_a_span_beyond_the_region() -> None:
    text = "{" * 300_000 + r"\boxed{B}"
    found = stated_option(text)
    assert found is not None
    assert text[slice(*found.span)] == "B"
