"""Policy's ragged log-probabilities against one plain forward per sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cooper.models import Policy
from cooper.types import Rollouts


@torch.no_grad()
def alone(policy: Policy, rollouts: Rollouts, row: int, temperature: float) -> Tensor:
    """[T_i, V] log-probabilities of one completion: no padding, no selected positions."""
    prompt = torch.tensor(rollouts.prompt_ids[rollouts.owners[row]])
    sequence = torch.cat([prompt, rollouts.tokens(row)])
    logits = policy.model(input_ids=sequence[None]).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, -1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows", [range(6), [4, 1, 5], [3], [2, 2]])
def test_logprobs_in_the_order_asked(
    policy: Policy, ragged: Rollouts, rows: list[int], temperature: float
) -> None:
    scorer = Policy(policy.model, policy.tokenizer, temperature)
    expected = torch.cat(
        [
            alone(policy, ragged, row, temperature).gather(-1, ragged.tokens(row)[:, None])[:, 0]
            for row in rows
        ]
    )
    with torch.no_grad():
        got = scorer(ragged, rows).logprobs
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_entropy_only_when_asked(policy: Policy, ragged: Rollouts) -> None:
    scorer = Policy(policy.model, policy.tokenizer, 0.7)
    rows = [5, 0]
    assert scorer(ragged, rows).entropy is None
    parts = [alone(policy, ragged, row, 0.7) for row in rows]
    expected = torch.cat([-(part.exp() * part).sum(-1) for part in parts])
    scores = scorer(ragged, rows, entropy=True)
    torch.testing.assert_close(scores.entropy, expected, rtol=0, atol=1e-5)
    assert scores.logprobs.requires_grad
    assert not scores.entropy.requires_grad


def test_what_fills_up_the_padding_does_not_matter(policy: Policy, ragged: Rollouts) -> None:
    with torch.no_grad():
        before = policy(ragged, range(6)).logprobs
        tokenizer = policy.tokenizer
        pad = tokenizer.pad_token
        try:
            tokenizer.pad_token = tokenizer.eos_token
            after = policy(ragged, range(6)).logprobs
        finally:
            tokenizer.pad_token = pad
    assert torch.equal(before, after)


def test_no_rows(policy: Policy, ragged: Rollouts) -> None:
    scores = policy(ragged, [], entropy=True)
    assert scores.logprobs.shape == (0,)
    assert scores.entropy.shape == (0,)


def test_weights_are_narrowed_and_the_rotations_frequencies_are_not(policy: Policy) -> None:
    narrow = policy.start()
    narrow.narrow(torch.bfloat16)
    assert {weight.dtype for weight in narrow.parameters()} == {torch.bfloat16}
    buffers = dict(narrow.named_buffers())
    assert any("inv_freq" in name for name in buffers)
    assert all(buffer.dtype == torch.float32 for buffer in buffers.values())
    assert narrow.model.dtype == torch.bfloat16
