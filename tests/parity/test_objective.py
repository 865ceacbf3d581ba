"""The policy objective as a whole: KL in the reward, shaping, entropy bonus, importance weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from modules import TEMPERATURE, assert_same_gradients, gradients, module_of
from torch import Tensor

from cooper.functional import spread_to_tokens
from cooper.models import Policy, RewardModel
from cooper.module import CooperModule
from cooper.objectives import FixedLogprobs, PolicyObjective
from cooper.rewards import Rewards
from cooper.types import Rollouts
from cooper.updates import Totals

MakeRollouts = Callable[..., Rollouts]


@pytest.fixture
def make_module(policy: Policy, reward_model: RewardModel) -> Callable[..., CooperModule]:
    return functools.partial(module_of, policy, reward_model, kl_coef=0.0)


def rewards_of(values: list[float], gated: list[bool] | None = None) -> Rewards:
    held = None if gated is None else torch.tensor(gated)
    return Rewards(torch.tensor(values).float(), torch.ones(len(values), dtype=torch.bool), held)


def fixed_with_k1(divergence: list[float]) -> FixedLogprobs:
    """Log-probabilities whose k1 estimate, log p - log p_ref, is the one given."""
    old = torch.full((len(divergence),), -1.0)
    return FixedLogprobs(old, old, old - torch.tensor(divergence))


def test_each_token_gets_its_completions_advantage(make_rollouts: MakeRollouts) -> None:
    rollouts = make_rollouts([["a", "b"]], lengths=[1, 3])
    got = PolicyObjective(advantage_scale="none").advantages(
        rewards_of([1, 0]), rollouts, fixed_with_k1([0] * 4)
    )
    assert got.tolist() == [0.5, -0.5, -0.5, -0.5]


def test_kl_in_the_reward_of_a_group(make_rollouts: MakeRollouts) -> None:
    """R - beta * sum KL: 1 - 0.1 * 2 = 0.8 and 0 - 0.1 * (1 + 1 + 2) = -0.4; mean 0.2."""
    rollouts = make_rollouts([["a", "b"]], lengths=[1, 3])
    objective = PolicyObjective(
        advantage_scale="none", kl_in="reward", kl_estimator="k1", kl_coef=0.1
    )
    got = objective.advantages(rewards_of([1, 0]), rollouts, fixed_with_k1([2, 1, 1, 2]))
    torch.testing.assert_close(got, torch.tensor([0.6, -0.6, -0.6, -0.6]))
    # Against the others: n / (n - 1) = 2 times as far.
    other = PolicyObjective(
        baseline="leave_one_out", advantage_scale="none", kl_in="reward", kl_estimator="k1",
        kl_coef=0.1,
    )  # fmt: skip
    got = other.advantages(rewards_of([1, 0]), rollouts, fixed_with_k1([2, 1, 1, 2]))
    torch.testing.assert_close(got, torch.tensor([1.2, -1.2, -1.2, -1.2]))


def test_kl_in_the_reward_without_a_group_is_a_return_to_go(make_rollouts: MakeRollouts) -> None:
    """REINFORCE++: a token answers for its own divergence and what follows; then whitened."""
    rollouts = make_rollouts([["a", "b"]], lengths=[1, 3])
    objective = PolicyObjective(
        baseline="none", advantage_scale="none", kl_in="reward", kl_estimator="k1", kl_coef=0.1
    )
    given = (rewards_of([1, 0]), rollouts, fixed_with_k1([2, 1, 1, 2]))
    returns = torch.tensor([0.8, -0.4, -0.3, -0.2])
    torch.testing.assert_close(objective.advantages(*given), returns)
    whitened = PolicyObjective(
        baseline="none", advantage_scale="batch", kl_in="reward", kl_estimator="k1", kl_coef=0.1
    ).advantages(*given)
    mean = sum(returns.tolist()) / 4
    variance = sum((x - mean) ** 2 for x in returns.tolist()) / 3
    torch.testing.assert_close(whitened, (returns - mean) / variance**0.5)


def test_kl_in_the_reward_is_not_in_the_loss_as_well(
    make_module: Callable[..., CooperModule], ragged: Rollouts
) -> None:
    ref = ragged.logprobs - 0.3
    fixed = FixedLogprobs(ragged.logprobs, ragged.logprobs, ref)
    totals = [Totals(), Totals(), Totals()]
    losses = [
        sum(module.policy_losses(ragged, torch.arange(6), fixed, tokens(ragged), total)).item()
        for module, total in zip(
            [
                make_module(kl_coef=0.5, kl_in="reward"),
                make_module(kl_coef=0.5, kl_in="loss"),
                make_module(kl_coef=0.0),
            ],
            totals,
            strict=True,
        )
    ]
    assert losses[0] == pytest.approx(losses[2], abs=1e-6)
    assert losses[1] > losses[0] + 1e-3
    assert totals[0].shares["kl"] == pytest.approx(totals[1].shares["kl"])


def test_gated_completions_have_no_advantage_in_any_form(make_rollouts: MakeRollouts) -> None:
    rollouts = make_rollouts([["a", "b"], ["c", "d"]], lengths=[1, 2, 1, 2])
    forms = [("group", "std"), ("leave_one_out", "none"), ("none", "batch"), ("none", "none")]
    for baseline, scale in forms:
        objective = PolicyObjective(
            baseline=baseline, advantage_scale=scale, kl_in="reward", kl_coef=0.1
        )
        got = objective.advantages(
            rewards_of([1, 0, 1, 0], [False, False, True, True]), rollouts, fixed_with_k1([1.0] * 6)
        )
        assert got[3:].tolist() == [0, 0, 0], baseline
        assert bool((got[:3] != 0).all()), baseline


def test_overlong_completions_lose_reward(make_rollouts: MakeRollouts) -> None:
    """Limit 20, share 0.2: the reward falls over the last 4 tokens, by up to 2."""
    rollouts = make_rollouts([["a", "b", "c", "d"]], lengths=[16, 17, 18, 20])
    objective = PolicyObjective(max_tokens=20, overlong_share=0.2, overlong_factor=2.0)
    got = objective.shape(rewards_of([1, 1, 1, 0]), rollouts)
    torch.testing.assert_close(got.values, torch.tensor([1.0, 0.5, 0.0, -2.0]))
    assert bool(got.learn.all())
    assert not bool(objective.shape(rewards_of([1, 1, 1, 0]), rollouts, silent=True).learn.any())


def tokens(rollouts: Rollouts) -> Tensor:
    return spread_to_tokens(torch.tensor([1.0, -1.0, 0.5, -2.0, 0.0, 1.5]), rollouts.offsets)


@pytest.mark.parametrize("micro_batch_tokens", [1, 10_000])
def test_entropy_bonus(
    make_module: Callable[..., CooperModule], ragged: Rollouts, micro_batch_tokens: int
) -> None:
    """With advantages of 0 the loss is minus the bonus: -c times the mean entropy of a token."""
    module = make_module(entropy_coef=0.7, entropy=False, micro_batch_tokens=micro_batch_tokens)
    plain = copy.deepcopy(module.policy.model)
    total = torch.zeros(())
    for row in range(6):
        prompt = ragged.prompt_ids[ragged.owners[row]]
        ids = torch.tensor([[*prompt, *ragged.tokens(row).tolist()]])
        logp = torch.log_softmax(plain(input_ids=ids).logits[0] / TEMPERATURE, -1)
        total = total - (logp.exp() * logp).sum(-1)[len(prompt) - 1 : -1].sum()
    expected = -0.7 * total / len(ragged.ids)
    expected.backward()
    fixed = FixedLogprobs(ragged.logprobs, ragged.logprobs, None)
    nothing = torch.zeros(len(ragged.ids))
    shares = list(module.policy_losses(ragged, torch.arange(6), fixed, nothing, Totals()))
    for share in shares:
        share.backward()
    assert sum(shares).item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(module.policy.model, plain)


def test_truncated_importance_weighs_tokens_that_another_policy_drew(
    make_module: Callable[..., CooperModule], ragged: Rollouts
) -> None:
    """At ratio 1 the loss is minus the mean of weight times advantage."""
    module = make_module(importance_cap=1.2)
    module.updaters["policy"].steps = 1  # the rollouts say version 0
    fixed = module.fixed_logprobs(ragged)
    weight = (fixed.old - ragged.logprobs).exp().clamp(max=1.2)
    assert 0 < int((weight == 1.2).sum()) < len(weight)
    totals = Totals()
    loss = sum(module.policy_losses(ragged, torch.arange(6), fixed, tokens(ragged), totals))
    assert loss.item() == pytest.approx(float(-(weight * tokens(ragged)).mean()), abs=1e-5)
    assert totals.shares["importance"] == pytest.approx(float(weight.mean()), abs=1e-5)


@pytest.mark.parametrize("aggregation", ["sequence_mean", "constant"])
@pytest.mark.parametrize("surrogate", ["ppo", "gspo", "cispo"])
def test_gradient_of_the_whole_batch_is_the_mean_of_its_minibatches(
    make_module: Callable[..., CooperModule], ragged: Rollouts, aggregation: str, surrogate: str
) -> None:
    def of(rows: list[int]) -> dict[str, Tensor]:
        module = make_module(aggregation=aggregation, surrogate=surrogate)
        fixed = FixedLogprobs(ragged.logprobs, ragged.logprobs, None)
        losses: Any = module.policy_losses(
            ragged, torch.tensor(rows), fixed, tokens(ragged), Totals()
        )
        for share in losses:
            share.backward()
        return gradients(module.policy.model)

    whole = of([0, 1, 2, 3, 4, 5])
    parts = [of(rows) for rows in ([4, 1], [0, 5], [2, 3])]
    for name, gradient in whole.items():
        mean = sum(part[name] for part in parts) / 3
        torch.testing.assert_close(mean, gradient, rtol=1e-5, atol=1e-6, msg=name)
