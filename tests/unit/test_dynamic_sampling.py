"""Groups without contrast are replaced, in bounds; everything of the kept ones stays together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cooper.dynamic_sampling import Drawn, informative, join, refill, select
from cooper.types import Rollouts, Verdict

MakeRollouts = Callable[..., Rollouts]
VerdictsOf = Callable[[str], list[Verdict]]


@pytest.fixture
def drawn(make_rollouts: MakeRollouts, verdicts_of: VerdictsOf) -> Callable[..., Drawn]:
    """``drawn("CI", "CC")``: a group for each word, a verdict for each letter."""

    def make(*groups: str, lengths: list[int] | None = None) -> Drawn:
        texts = [[f"{group}{i}" for i in range(len(group))] for group in groups]
        rollouts = make_rollouts(texts, references=list(groups), lengths=lengths)
        return Drawn(rollouts, verdicts_of("".join(groups)))

    return make


def groups(drawn: Drawn) -> list[str]:
    return [problem.reference for problem in drawn.rollouts.problems]


def test_contrast_is_one_correct_and_one_that_is_not(drawn: Callable[..., Drawn]) -> None:
    assert groups(informative(drawn("CI", "CC", "II", "CU", "IU", "UU"))) == ["CI", "CU"]


def test_selected_groups_keep_what_is_theirs(drawn: Callable[..., Drawn]) -> None:
    whole = drawn("CI", "CC", "IC", lengths=[1, 2, 3, 1, 2, 4])
    whole.rollouts.ids.copy_(torch.arange(13))
    got = select(whole, [2, 0])
    assert got.rollouts.completions == ("IC0", "IC1", "CI0", "CI1")
    assert got.rollouts.problem_of.tolist() == [0, 0, 1, 1]
    assert [got.rollouts.tokens(i).tolist() for i in range(4)] == [
        [7, 8], [9, 10, 11, 12], [0], [1, 2],
    ]  # fmt: skip
    assert [v.correct for v in got.verdicts] == [False, True, True, False]
    again = join([select(got, [1]), select(got, [0])])
    assert groups(again) == ["CI", "IC"]
    assert again.rollouts.offsets.tolist() == [0, 1, 3, 5, 9]
    assert again.rollouts.problem_of.tolist() == [0, 0, 1, 1]


def test_refills_until_the_batch_is_full(drawn: Callable[..., Drawn]) -> None:
    rounds = iter([drawn("II", "IC", "CC"), drawn("CI", "CI", "CI")])
    got = refill(drawn("CI", "CC", "II"), 5, lambda: next(rounds))
    assert groups(got) == ["CI", "IC", "CI"]
    assert got.metrics == {"sampling/extra_rounds": 2, "sampling/dropped_groups": 6}
    assert not got.silent


def test_rounds_are_bounded_and_what_is_missing_stays_missing(drawn: Callable[..., Drawn]) -> None:
    got = refill(drawn("CI", "CC"), 3, lambda: drawn("II", "II"))
    assert groups(got) == ["CI"]
    assert got.rounds == 3


def test_without_any_contrast_the_first_groups_stay_and_teach_nothing(
    drawn: Callable[..., Drawn],
) -> None:
    got = refill(drawn("CC", "II"), 1, lambda: drawn("II", "II"))
    assert groups(got) == ["CC", "II"]
    assert got.silent


def test_full_batches_are_left_as_they_are(drawn: Callable[..., Drawn]) -> None:
    def never() -> Drawn:
        raise AssertionError("no more is needed")

    whole = drawn("CI", "IC", lengths=[2, 1, 3, 1])
    got = refill(whole, 4, never)
    assert got.rollouts.completions == whole.rollouts.completions
    assert torch.equal(got.rollouts.offsets, whole.rollouts.offsets)
    assert torch.equal(got.rollouts.ids, whole.rollouts.ids)
