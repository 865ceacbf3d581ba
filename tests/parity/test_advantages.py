"""group_advantages against numbers worked out by hand (veRL's convention)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cooper.functional import group_advantages

ONE_GROUP = torch.zeros(4, dtype=torch.long)


def close(got: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=1e-6)


def test_sample_standard_deviation() -> None:
    # mean 1/2, sample variance 4 * (1/2)^2 / 3 = 1/3, so A = (1/2) * sqrt(3), less 1.5e-6 by eps
    got = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), ONE_GROUP)
    torch.testing.assert_close(
        got, torch.tensor([0.8660239, -0.8660239, -0.8660239, 0.8660239]), rtol=0, atol=2e-7
    )


def test_eps_is_added_to_the_standard_deviation() -> None:
    # std of (0, 2) is sqrt(2): 1 / (1.4142136 + 0.5857864) = 0.5
    got = group_advantages(torch.tensor([0.0, 2.0]), ONE_GROUP[:2], eps=0.5857864)
    close(got, [-0.5, 0.5])


def test_groups_are_told_apart_wherever_they_stand() -> None:
    rewards = torch.tensor([1.0, 10.0, 3.0, 30.0])
    got = group_advantages(rewards, torch.tensor([7, 3, 7, 3]), scale="none")
    close(got, [-1.0, -10.0, 1.0, 10.0])


def test_a_group_of_one_keeps_its_raw_reward() -> None:
    for scale in ("std", "none"):
        got = group_advantages(torch.tensor([0.3, 0.0, 1.0]), torch.tensor([0, 1, 1]), scale=scale)
        assert float(got[0]) == pytest.approx(0.3)


@pytest.mark.parametrize("count", [3, 7, 16])
def test_equal_rewards_give_exactly_zero(count: int) -> None:
    # The mean of n times 0.1 is not 0.1 in float32; divided by eps that would be visible.
    got = group_advantages(torch.full((count,), 0.1), torch.zeros(count, dtype=torch.long))
    assert got.tolist() == [0.0] * count


def test_min_std_silences_a_group_at_or_below_it() -> None:
    rewards = torch.tensor([0.0, 0.2, 0.0, 2.0])  # sample std 0.1414 and 1.414
    groups = torch.tensor([0, 0, 1, 1])
    got = group_advantages(rewards, groups, min_std=0.15, scale="none")
    close(got, [0.0, 0.0, -1.0, 1.0])
    got = group_advantages(rewards, groups, min_std=0.14, scale="none")
    close(got, [-0.1, 0.1, -1.0, 1.0])
    one = torch.tensor([0.0, 2.0**0.5])  # std exactly 1 in float32 or just beside it
    std = float(one.std())
    assert not group_advantages(one, ONE_GROUP[:2], min_std=std).any()


def test_rollouts_not_kept_get_zero_and_enter_no_statistics() -> None:
    rewards = torch.tensor([1.0, 100.0, 3.0, 0.5])
    keep = torch.tensor([True, False, True, True])
    got = group_advantages(rewards, torch.tensor([0, 0, 0, 1]), scale="none", keep=keep)
    close(got, [-1.0, 0.0, 1.0, 0.5])
    none = torch.zeros(4, dtype=torch.bool)
    assert not group_advantages(rewards, ONE_GROUP, keep=none).any()


def test_dr_grpo_subtracts_the_mean_only() -> None:
    got = group_advantages(torch.tensor([1.0, 0.0, 0.0]), ONE_GROUP[:3], scale="none")
    close(got, [2 / 3, -1 / 3, -1 / 3])


def test_no_rollouts() -> None:
    assert len(group_advantages(torch.zeros(0), torch.zeros(0, dtype=torch.long))) == 0


def test_shapes_are_checked_under_pytest() -> None:
    with pytest.raises(Exception, match=r"jaxtyping|type-check"):
        group_advantages(torch.zeros(3), torch.zeros(2, dtype=torch.long))
