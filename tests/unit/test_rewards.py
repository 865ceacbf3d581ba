"""What each reward gives, and which groups its gate lets through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cooper.rewards import HybridReward, ModelReward, Reward, RuleReward
from cooper.types import Verdict

VerdictsOf = Callable[[str], list[Verdict]]
PAIR = torch.tensor([0, 0])


def run(
    reward: Reward, verdicts: list[Verdict], scores: list[float] | None
) -> tuple[list[float], list[bool]]:
    given = None if scores is None else torch.tensor(scores)
    got = reward(verdicts, given, torch.zeros(len(verdicts), dtype=torch.long))
    assert got.values.dtype is torch.float32
    return pytest.approx(got.values.tolist()), got.learn.tolist()


def test_rule(verdicts_of: VerdictsOf) -> None:
    assert run(RuleReward(), verdicts_of("CIU"), None) == ([1, 0, 0], [True] * 3)
    excluding = RuleReward(undecided="exclude")
    assert run(excluding, verdicts_of("CIU"), None) == ([1, 0, 0], [True, True, False])
    assert (RuleReward.needs_model, RuleReward.trains_model) == (False, False)


def test_model(verdicts_of: VerdictsOf) -> None:
    scores = [0.1, 0.9, 0.4]
    assert run(ModelReward(), verdicts_of("CIU"), scores) == (scores, [True] * 3)
    excluding = ModelReward(undecided="exclude")
    assert run(excluding, verdicts_of("CIU"), scores) == (scores, [True, True, False])
    for train in (True, False):
        assert ModelReward(train_model=train).trains_model is train
    assert ModelReward().needs_model


@pytest.mark.parametrize(
    ("undecided", "value", "kept"), [("model", 0.4, True), ("wrong", 0.0, True)]
)
def test_hybrid_takes_the_verdict_where_it_is_decided(
    verdicts_of: VerdictsOf, undecided: str, value: float, kept: bool
) -> None:
    got = run(HybridReward(undecided=undecided), verdicts_of("CIU"), [0.1, 0.9, 0.4])
    assert got == ([1, 0, value], [True, True, kept])


def test_hybrid_excludes_undecided(verdicts_of: VerdictsOf) -> None:
    values, keep = run(HybridReward(undecided="exclude"), verdicts_of("CIU"), [0.1, 0.9, 0.4])
    assert keep == [True, True, False]
    assert values == [1, 0, 0]


@pytest.mark.parametrize("kind", [ModelReward, HybridReward])
@pytest.mark.parametrize(
    ("letters", "scores", "through"),
    [
        # (verdicts, scores): gates that let the group through
        ("CI", [0.9, 0.1], {"none", "rule", "model", "both"}),
        ("CI", [0.9, 0.8], {"none", "rule"}),
        ("CC", [0.9, 0.1], {"none", "model"}),
        ("II", [0.4, 0.3], {"none"}),
        ("II", [0.5, 0.3], {"none"}),  # 0.5 itself is not right
    ],
)
@pytest.mark.parametrize("gate", ["none", "rule", "model", "both"])
def test_gates(
    verdicts_of: VerdictsOf,
    kind: type[ModelReward] | type[HybridReward],
    letters: str,
    scores: list[float],
    through: set[str],
    gate: str,
) -> None:
    _, keep = run(kind(gate=gate), verdicts_of(letters), scores)
    assert keep == [gate in through] * 2


@pytest.mark.parametrize(
    ("undecided", "letters", "scores", "keep"),
    [
        ("model", "IU", [0.9, 0.8], [True, True]),  # the score at 0.5 calls U right
        ("model", "IU", [0.9, 0.2], [False, False]),
        ("wrong", "IU", [0.9, 0.8], [False, False]),
        ("wrong", "CU", [0.9, 0.8], [True, True]),
        ("exclude", "CU", [0.9, 0.8], [False, False]),  # only C is left: nothing to tell apart
        ("exclude", "CIU", [0.9, 0.8, 0.1], [True, True, False]),
    ],
)
def test_rule_gate_and_undecided(
    verdicts_of: VerdictsOf, undecided: str, letters: str, scores: list[float], keep: list[bool]
) -> None:
    reward = ModelReward(gate="rule", undecided=undecided)
    assert run(reward, verdicts_of(letters), scores)[1] == keep


def test_gates_look_at_each_group_alone(verdicts_of: VerdictsOf) -> None:
    groups = torch.tensor([5, 8, 5, 8])
    got = ModelReward(gate="rule")(verdicts_of("CIIC"), torch.full((4,), 0.7), groups)
    assert got.learn.tolist() == [True, True, True, True]
    got = ModelReward(gate="rule")(verdicts_of("CICC"), torch.full((4,), 0.7), groups)
    assert got.learn.tolist() == [False, True, False, True]
    assert got.keep.tolist() == [True] * 4  # a gate takes no rollout out of the mean


@pytest.mark.parametrize("kind", [ModelReward, HybridReward])
def test_scores_are_needed(verdicts_of: VerdictsOf, kind: type[Reward]) -> None:
    with pytest.raises(ValueError, match="needs reward-model scores"):
        kind()(verdicts_of("CI"), None, PAIR)


def test_unknown_settings() -> None:
    with pytest.raises(ValueError, match=r"reward\.undecided=model"):
        RuleReward(undecided="model")
    with pytest.raises(ValueError, match=r"reward\.gate=rules"):
        ModelReward(gate="rules")
    with pytest.raises(ValueError, match=r"reward\.undecided=skip"):
        HybridReward(undecided="skip")
