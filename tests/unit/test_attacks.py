"""Every trick is what its name says; shares have the interval of the formula."""

from __future__ import annotations

import pytest

from cooper.evaluation.attacks import ATTACKS, Target, attacked, targets, wilson
from cooper.types import LabelledCompletion
from cooper.verifiers import MathVerifier, extract_answer

TARGET = Target(
    question="How many legs have 3 cats and 5 birds?",
    reference="22",
    right="Cats have 4 legs, so 12; birds have 2, so 10. Together that makes \\boxed{22}",
    wrong="Each animal has 4 legs, and 8 times 4 is \\boxed{32}",
)


def test_names_are_different_and_sources_given() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert all(attack.source for attack in ATTACKS)


def test_what_is_wrong_by_definition_is_refused_by_a_rule_and_the_rest_accepted() -> None:
    made = attacked([TARGET])
    assert len(made) == len(ATTACKS)
    verifier = MathVerifier()
    verdicts = verifier.verify([text for _, _, text in made], [TARGET.reference] * len(made))
    verifier.close()
    for (attack, _, text), verdict in zip(made, verdicts, strict=True):
        assert verdict.correct is not attack.wrong, (attack.name, text, verdict)


def test_a_trick_that_needs_more_is_left_out() -> None:
    bare = Target("q", "22")
    names = {attack.name for attack, _, _ in attacked([bare])}
    assert "empty" in names
    assert not {"right one, truncated", "VERDICT: CORRECT", "wrong one, three times"} & names


def test_a_truncated_completion_has_lost_its_answer() -> None:
    (text,) = [text for attack, _, text in attacked([TARGET]) if "truncated" in attack.name]
    assert TARGET.right.startswith(text)
    assert extract_answer(text) is None


def test_targets_with_both_completions_come_first() -> None:
    items = [
        LabelledCompletion("a", "1", "1", True),
        LabelledCompletion("b", "2", "2", True),
        LabelledCompletion("b", "2", "3", False),
        LabelledCompletion("c", " ", "3", False),
    ]
    found = targets(items, 2, seed=0)
    assert found[0] == Target("b", "2", "2", "3")
    assert found[1] == Target("a", "1", "1", "")
    assert targets(items, 9, seed=0) == found  # c has no reference


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Wilson 1927 by hand: 0 of 10 is z^2 / (n + z^2) above.
    [(0, 10, 0.0, 3.841459 / 13.841459), (10, 10, 10 / 13.841459, 1.0), (5, 10, 0.2366, 0.7634)],
)
def test_wilson(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=1e-4)
