"""The checks of the small frozen types."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from cooper.types import Rollouts, SamplingParams, Status, Verdict


@pytest.mark.parametrize("status", list(Status))
def test_a_verdict_has_no_truth_value(status: Status) -> None:
    with pytest.raises(TypeError, match="three values"):
        bool(Verdict(status))


@pytest.mark.parametrize(
    ("status", "correct", "incorrect", "decided"),
    [
        (Status.CORRECT, True, False, True),
        (Status.INCORRECT, False, True, True),
        (Status.UNDECIDED, False, False, False),
    ],
)
def test_verdict_flags(status: Status, correct: bool, incorrect: bool, decided: bool) -> None:
    verdict = Verdict(status)
    assert (verdict.correct, verdict.incorrect, verdict.decided) == (correct, incorrect, decided)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
    ],
)
def test_sampling_ranges(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**{"max_new_tokens": 1, **wrong})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("problem_of", torch.zeros(2, dtype=torch.long)),
        ("offsets", torch.tensor([0, 1, 3])),
        ("finished", torch.ones(4, dtype=torch.bool)),
        ("ids", torch.zeros(5, dtype=torch.long)),
        ("logprobs", torch.zeros(7)),
        ("prompt_ids", ()),
        ("offsets", torch.zeros(0, dtype=torch.long)),
    ],
)
def test_lengths_of_rollouts_must_fit(
    make_rollouts: Callable[..., Rollouts], field: str, value: object
) -> None:
    rollouts = make_rollouts([["a", "b"], ["c"]], lengths=[1, 2, 3])
    with pytest.raises(ValueError, match=r"Rollouts\."):
        dataclasses.replace(rollouts, **{field: value})


def test_views_of_rollouts(make_rollouts: Callable[..., Rollouts]) -> None:
    rollouts = make_rollouts([["a", "b"], [], ["c"]], ["1", "2", "3"], lengths=[1, 2, 3])
    object.__setattr__(rollouts, "ids", torch.arange(6))
    assert len(rollouts) == 3
    assert rollouts.lengths.tolist() == [1, 2, 3]
    assert rollouts.groups == [[0, 1], [], [2]]
    assert rollouts.references == ["1", "1", "3"]
    assert rollouts.questions == ["question 0", "question 0", "question 2"]
    assert [rollouts.tokens(i).tolist() for i in range(3)] == [[0], [1, 2], [3, 4, 5]]


def test_no_rollouts(make_rollouts: Callable[..., Rollouts]) -> None:
    rollouts = make_rollouts([])
    assert len(rollouts) == 0
    assert rollouts.groups == []
