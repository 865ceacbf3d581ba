"""The whole of both losses, gradients included, against plain loops over padded logits."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from modules import KL_COEF, TEMPERATURE, assert_same_gradients, module_of
from torch import Tensor, nn

from cooper.models import Policy, RewardModel
from cooper.module import CooperModule
from cooper.objectives import FixedLogprobs
from cooper.strategies.engine import Engine
from cooper.types import Rollouts
from cooper.updates import Totals

ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -2.0, 0.0, 1.5])


def reference_loss(
    model: nn.Module,
    rollouts: Rollouts,
    rows: Sequence[int],
    ref_logprobs: Tensor,
    aggregation: str = "token_mean",
    mask_truncated: bool = False,
) -> Tensor:
    """GRPO with k3 (arXiv 2402.03300, equations 3 and 4), token by token."""
    sequences = [
        [*rollouts.prompt_ids[rollouts.owners[row]], *rollouts.tokens(row).tolist()] for row in rows
    ]
    longest = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    logp = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits / TEMPERATURE, -1)
    kept = [row for row in rows if bool(rollouts.finished[row]) or not mask_truncated]
    tokens = sum(len(rollouts.tokens(row)) for row in kept)
    total = torch.zeros(())
    for at, row in enumerate(rows):
        if row not in kept:
            continue
        prompt = len(rollouts.prompt_ids[rollouts.owners[row]])
        length = len(rollouts.tokens(row))
        weight = 1 / tokens if aggregation == "token_mean" else 1 / (len(kept) * length)
        for t in range(length):
            new = logp[at, prompt + t - 1, ids[at, prompt + t]]
            flat = int(rollouts.offsets[row]) + t
            ratio = torch.exp(new - rollouts.logprobs[flat])
            clipped = ratio.clamp(0.8, 1.2)
            surrogate = torch.minimum(ratio * ADVANTAGES[row], clipped * ADVANTAGES[row])
            d = ref_logprobs[flat] - new
            total = total + weight * (-surrogate + KL_COEF * (torch.exp(d) - d - 1))
    return total


@pytest.fixture
def make_module(policy: Policy, reward_model: RewardModel) -> Callable[..., CooperModule]:
    return functools.partial(module_of, policy, reward_model)


@pytest.fixture
def ref_logprobs(ragged: Rollouts) -> Tensor:
    noise = torch.randn(len(ragged.ids), generator=torch.Generator().manual_seed(3))
    return ragged.logprobs + 0.2 * noise


def fixed(rollouts: Rollouts, ref_logprobs: Tensor | None = None) -> FixedLogprobs:
    return FixedLogprobs(rollouts.logprobs, rollouts.logprobs, ref_logprobs)


def spread(rollouts: Rollouts) -> Tensor:
    return torch.cat([ADVANTAGES[r].repeat(len(rollouts.tokens(r))) for r in range(6)])


@pytest.mark.parametrize("micro_batch_tokens", [1, 30, 10_000])
@pytest.mark.parametrize(
    ("aggregation", "mask_truncated"),
    [("token_mean", False), ("token_mean", True), ("sequence_mean", False)],
)
def test_policy_loss_and_all_gradients(
    make_module: Callable[..., CooperModule],
    ragged: Rollouts,
    ref_logprobs: Tensor,
    aggregation: str,
    mask_truncated: bool,
    micro_batch_tokens: int,
) -> None:
    module = make_module(
        aggregation=aggregation,
        mask_truncated=mask_truncated,
        micro_batch_tokens=micro_batch_tokens,
    )
    plain = copy.deepcopy(module.policy.model)
    rows = [0, 1, 2, 3, 4, 5]
    expected = reference_loss(plain, ragged, rows, ref_logprobs, aggregation, mask_truncated)
    expected.backward()

    totals = Totals()
    total = 0.0
    for share in module.policy_losses(
        ragged, torch.tensor(rows), fixed(ragged, ref_logprobs), spread(ragged), totals
    ):
        share.backward()
        total += share.item()
    assert total == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(module.policy.model, plain)
    assert 0 < totals.shares["clip_frac"] < 1


def test_logged_shares_do_not_depend_on_the_micro_batches(
    make_module: Callable[..., CooperModule], ragged: Rollouts, ref_logprobs: Tensor
) -> None:
    logged = []
    for size in (1, 10_000):
        totals = Totals()
        module = make_module(micro_batch_tokens=size)
        list(
            module.policy_losses(
                ragged, torch.arange(6), fixed(ragged, ref_logprobs), spread(ragged), totals
            )
        )
        logged.append(totals.shares)
    assert logged[0] == pytest.approx(logged[1], abs=1e-5)
    assert set(logged[0]) == {"clip_frac", "kl", "entropy"}


def test_minibatches_split_the_rollouts_and_weigh_each_by_itself(
    make_module: Callable[..., CooperModule], ragged: Rollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(minibatches=3, epochs=2)
    seen: list[list[int]] = []
    losses: list[float] = []
    original = module.policy_losses

    def spy(rollouts: Rollouts, rows: Tensor, *rest: Any) -> Any:
        seen.append(rows.tolist())
        return original(rollouts, rows, *rest)

    def step(name: str, shares: Any) -> Any:
        losses.append(sum(share.item() for share in shares))
        return module.updaters[name].step([], _Nothing(module.policy), _Schedule())

    monkeypatch.setattr(module, "policy_losses", spy)
    monkeypatch.setattr(module, "step_model", step)
    module.update_policy(ragged, module.fixed_logprobs(ragged), spread(ragged))

    assert [len(rows) for rows in seen] == [2] * 6
    for epoch in (seen[:3], seen[3:]):
        assert sorted(row for rows in epoch for row in rows) == [0, 1, 2, 3, 4, 5]
    assert seen[:3] != seen[3:]  # drawn anew each pass
    # Later mini-batches still measure their ratios from the rollouts' own log-probabilities.
    with torch.no_grad():
        for rows, loss in zip(seen, losses, strict=True):
            plain = module.policy(ragged, rows).logprobs
            flat = torch.cat([torch.arange(ragged.offsets[r], ragged.offsets[r + 1]) for r in rows])
            advantage = torch.cat([ADVANTAGES[r].repeat(len(ragged.tokens(r))) for r in rows])
            ratio = (plain - ragged.logprobs[flat]).exp()
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            assert loss == pytest.approx(float(-surrogate.mean()), abs=1e-5)


class _Nothing(Engine):
    """Takes no step."""

    def zero_grad(self) -> None: ...

    def step(self, clip_norm: float, finite: bool) -> tuple[float, bool]:
        return 0.0, True


class _Schedule:
    def step(self) -> None: ...

    def get_last_lr(self) -> list[float]:
        return [0.0]


@pytest.mark.parametrize(
    ("updates", "cut"), [(1, {}), (0, {"top_p": 0.9}), (0, {"top_k": 5})], ids=str
)
def test_old_logprobs_are_recomputed_when_the_drawn_ones_are_of_another_distribution(
    make_module: Callable[..., CooperModule],
    ragged: Rollouts,
    monkeypatch: pytest.MonkeyPatch,
    updates: int,
    cut: dict[str, Any],
) -> None:
    """At ratio 1 the loss is minus the mean advantage of the tokens."""
    module = make_module()
    module.updaters["policy"].steps = updates  # the rollouts say version 0
    module.sampling = dataclasses.replace(module.sampling, **cut)
    losses: list[float] = []

    def step(name: str, shares: Any) -> Any:
        losses.append(sum(share.item() for share in shares))
        return module.updaters[name].step([], _Nothing(module.policy), _Schedule())

    monkeypatch.setattr(module, "step_model", step)
    module.update_policy(ragged, module.fixed_logprobs(ragged), spread(ragged))
    mean = (ADVANTAGES * ragged.lengths).sum() / ragged.lengths.sum()
    assert losses == pytest.approx([-float(mean)], abs=1e-5)
