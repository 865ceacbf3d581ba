"""Advantages against numbers worked out by hand and against loops (veRL's conventions)."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest
import torch
from torch import Tensor

from cooper.functional import (
    group_advantages,
    leave_one_out_advantages,
    offsets_from,
    spread_to_tokens,
    sums_to_go,
    whiten,
)

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


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, problems and what is kept; the last problem has one rollout only."""
    rng = torch.Generator().manual_seed(seed)
    rewards = torch.rand(12, generator=rng).round(decimals=1)
    problem_of = torch.cat([torch.randint(0, 4, (11,), generator=rng), torch.tensor([9])])
    return rewards, problem_of, torch.rand(12, generator=rng) < 0.7


def against_the_others(rewards: Tensor, problem_of: Tensor, keep: Tensor) -> list[float]:
    """RLOO's formula: one rollout at a time, its baseline summed over the others."""
    found = []
    for i, problem in enumerate(problem_of.tolist()):
        family = [j for j, other in enumerate(problem_of.tolist()) if other == problem]
        others = [float(rewards[j]) for j in family if j != i and keep[j]]
        if not keep[i] or (not others and len(family) > 1):
            found.append(0.0)
        else:
            found.append(float(rewards[i]) - (mean(others) if others else 0.0))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_group_advantages_equal_a_loop_over_the_groups(seed: int) -> None:
    rewards, problem_of, keep = batch(seed)
    expected = [0.0] * len(rewards)
    for i, problem in enumerate(problem_of.tolist()):
        same = problem_of == problem
        group = rewards[same & keep].tolist()
        if keep[i] and len(group) > 1 and len(set(group)) > 1:
            expected[i] = (float(rewards[i]) - mean(group)) / (stdev(group) + 1e-6)
        elif keep[i] and int(same.sum()) == 1:
            expected[i] = float(rewards[i])
    got = group_advantages(rewards, problem_of, keep=keep)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_leave_one_out_by_hand() -> None:
    # (1, 0, 0, 1): 1 - 1/3 and 0 - 2/3; a pair: the difference
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.25, 1.0])
    got = leave_one_out_advantages(rewards, torch.tensor([5, 5, 5, 5, 2, 2]))
    close(got, [2 / 3, -2 / 3, -2 / 3, 2 / 3, -0.75, 0.75])


@pytest.mark.parametrize("seed", range(6))
def test_leave_one_out_equals_a_loop_over_the_others(seed: int) -> None:
    rewards, problem_of, keep = batch(seed)
    everything = torch.ones_like(keep)
    close(
        leave_one_out_advantages(rewards, problem_of),
        against_the_others(rewards, problem_of, everything),
    )
    close(
        leave_one_out_advantages(rewards, problem_of, keep=keep),
        against_the_others(rewards, problem_of, keep),
    )


def test_leave_one_out_is_n_over_n_minus_1_of_the_centred_reward() -> None:
    rewards = torch.tensor([0.1, 0.7, 0.2, 0.9, 0.4])
    groups = torch.zeros(5, dtype=torch.long)
    close(leave_one_out_advantages(rewards, groups), (5 / 4 * (rewards - rewards.mean())).tolist())


def test_leave_one_out_of_a_group_of_one() -> None:
    rewards, groups = torch.tensor([0.3, 0.6, 0.9]), torch.tensor([0, 1, 1])
    close(leave_one_out_advantages(rewards, groups), [0.3, -0.3, 0.3])
    # Alone because the other one is not kept: nothing to compare with.
    keep = torch.tensor([True, True, False])
    close(leave_one_out_advantages(rewards, groups, keep=keep), [0.3, 0.0, 0.0])
    assert not leave_one_out_advantages(rewards, groups, keep=~keep).any()


def test_leave_one_out_with_nothing_to_tell_apart() -> None:
    assert not leave_one_out_advantages(torch.full((7,), 0.1), ONE_GROUP[:1].expand(7)).any()
    rewards = torch.tensor([0.0, 0.2])  # sample std 0.1414
    close(leave_one_out_advantages(rewards, ONE_GROUP[:2], min_std=0.14), [-0.2, 0.2])
    assert not leave_one_out_advantages(rewards, ONE_GROUP[:2], min_std=0.15).any()
    assert not leave_one_out_advantages(rewards, ONE_GROUP[:2], keep=rewards > 1).any()
    assert len(leave_one_out_advantages(torch.zeros(0), torch.zeros(0, dtype=torch.long))) == 0


@pytest.mark.parametrize("advantages", [group_advantages, leave_one_out_advantages])
def test_the_order_of_rollouts_does_not_matter(advantages) -> None:
    rewards, problem_of, keep = batch(7)
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(1))
    shuffled = advantages(rewards[order], problem_of[order], keep=keep[order])
    close(shuffled, advantages(rewards, problem_of, keep=keep)[order].tolist())


def test_whiten_by_hand() -> None:
    # 1, 3, 5: mean 3, sample variance 4; what is left out neither counts nor gets anything
    keep = torch.tensor([True, False, True, True])
    close(whiten(torch.tensor([1.0, 99.0, 3.0, 5.0]), keep), [-1.0, 0.0, 0.0, 1.0])


def test_whiten_adds_eps_inside_the_root() -> None:
    # 0, 2: variance 2, so 1 / sqrt(2 + 2)
    close(whiten(torch.tensor([0.0, 2.0]), torch.tensor([True, True]), eps=2.0), [-0.5, 0.5])


@pytest.mark.parametrize("seed", range(4))
def test_whiten_equals_the_formula(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(20, generator=rng) * 3 + 5
    keep = torch.rand(20, generator=rng) < 0.6
    kept = [float(x) for x, k in zip(values, keep, strict=True) if k]
    scale = math.sqrt(sum((x - mean(kept)) ** 2 for x in kept) / (len(kept) - 1) + 1e-8)
    expected = [
        (float(x) - mean(kept)) / scale if k else 0.0 for x, k in zip(values, keep, strict=True)
    ]
    torch.testing.assert_close(whiten(values, keep), torch.tensor(expected), rtol=0, atol=1e-5)


def test_whiten_counts_tokens_not_completions() -> None:
    # one token of reward 1, three of 0: mean 1/4, variance 3/4 * 1/4 * 4/3 = 1/4
    values = spread_to_tokens(torch.tensor([1.0, 0.0]), torch.tensor([0, 1, 4]))
    close(whiten(values, values >= 0, eps=0.0), [1.5, -0.5, -0.5, -0.5])


def test_whiten_undoes_scale_and_offset() -> None:
    values = torch.tensor([0.3, -1.0, 2.0, 0.0])
    every = torch.ones(4, dtype=torch.bool)
    close(whiten(10 * values + 3, every), whiten(values, every).tolist())


@pytest.mark.parametrize("count", [0, 1])
def test_whiten_of_fewer_than_two_tokens(count: int) -> None:
    keep = torch.arange(3) < count
    assert whiten(torch.tensor([1.0, 2.0, 3.0]), keep).tolist() == [0.0] * 3
    assert whiten(torch.zeros(count), torch.ones(count, dtype=torch.bool)).tolist() == [0.0] * count


@pytest.mark.parametrize("count", [2, 7, 16])
def test_whiten_of_equal_values_is_exactly_zero(count: int) -> None:
    got = whiten(torch.full((count,), 0.1), torch.ones(count, dtype=torch.bool))
    assert got.tolist() == [0.0] * count


def test_whiten_of_half_precision_is_float32() -> None:
    values = torch.tensor([0.3, -1.0, 2.0], dtype=torch.bfloat16)
    got = whiten(values, torch.ones(3, dtype=torch.bool))
    assert got.dtype is torch.float32
    assert float(got.std()) == pytest.approx(1, abs=1e-6)


def test_reinforce_plus_plus_equals_a_loop_over_its_returns() -> None:
    """A_t = R - beta * sum of the KL from t on, then normalised over the batch's tokens."""
    rng = torch.Generator().manual_seed(3)
    lengths, rewards, beta = [3, 1, 4], [1.0, 0.0, 0.5], 0.3
    kl = [torch.randn(length, generator=rng).tolist() for length in lengths]
    returns = [
        r - beta * sum(k[t:]) for r, k in zip(rewards, kl, strict=True) for t in range(len(k))
    ]
    expected = [(x - mean(returns)) / stdev(returns) for x in returns]

    offsets = offsets_from(torch.tensor(lengths))
    per_token = -beta * torch.tensor([k for row in kl for k in row])
    per_token[offsets[1:] - 1] += torch.tensor(rewards)  # the reward comes with the last token
    values = sums_to_go(per_token, offsets)
    got = whiten(values, torch.ones(8, dtype=torch.bool))
    torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=1e-5)
