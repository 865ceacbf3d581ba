"""selective_log_softmax and entropy against torch's own softmax."""

from __future__ import annotations

import math

import pytest
import torch

from cooper.functional import (
    entropy_from_logits,
    selective_log_softmax,
    selective_log_softmax_and_entropy,
)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(7, 11, generator=torch.Generator().manual_seed(0)) * 5


IDS = torch.tensor([0, 10, 3, 3, 7, 1, 9])


@pytest.mark.parametrize("chunk", [1, 3, 7, 4096])
def test_equals_log_softmax(logits: torch.Tensor, chunk: int) -> None:
    expected = torch.stack([torch.log_softmax(logits[i], 0)[IDS[i]] for i in range(7)])
    got = selective_log_softmax(logits, IDS, chunk=chunk)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_gradient_equals_that_of_log_softmax(logits: torch.Tensor) -> None:
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, -1.0, 0.25])
    (selective_log_softmax(ours, IDS, chunk=2) * weights).sum().backward()
    (torch.log_softmax(theirs, -1)[range(7), IDS] * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-6)


def test_half_precision_is_summed_in_float32(logits: torch.Tensor) -> None:
    half = logits.bfloat16()
    got = selective_log_softmax(half, IDS)
    assert got.dtype is torch.float32
    expected = torch.log_softmax(half.double(), -1)[range(7), IDS].float()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 7, None])
def test_both_at_once_are_both_apart(logits: torch.Tensor, chunk: int | None) -> None:
    logits[2, :5] = -math.inf
    logits.requires_grad_()
    logprobs, entropy = selective_log_softmax_and_entropy(logits, IDS, chunk=chunk)
    expected = torch.log_softmax(logits, -1)[range(7), IDS]
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy, entropy_from_logits(logits), rtol=0, atol=1e-5)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


def test_no_tokens() -> None:
    empty = selective_log_softmax(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    assert empty.shape == (0,)
    assert entropy_from_logits(torch.zeros(0, 5)).shape == (0,)


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, -math.inf, -math.inf]])
    got = entropy_from_logits(logits, chunk=1)
    torch.testing.assert_close(got, torch.tensor([math.log(4), math.log(2)]))


def test_entropy_gradient_by_the_formula() -> None:
    """dH/dx_v = -p_v (log p_v + H), and 0 for an impossible token."""
    logits = torch.tensor([[0.3, -1.0, 2.0, -math.inf]], requires_grad=True)
    entropy_from_logits(logits).sum().backward()
    p = logits.detach().softmax(-1)[0, :3]
    entropy = -(p * p.log()).sum()
    expected = torch.cat([-p * (p.log() + entropy), torch.zeros(1)])
    torch.testing.assert_close(logits.grad[0], expected)


@pytest.mark.parametrize("chunk", [1, 3, 7, 4096])
def test_entropy_and_its_gradient_equal_the_sum_over_tokens(
    logits: torch.Tensor, chunk: int
) -> None:
    logits.requires_grad_()
    got = entropy_from_logits(logits, chunk=chunk)
    weights = torch.arange(7) + 1.0
    slopes = torch.autograd.grad((weights * got).sum(), logits)[0]
    for row, entropy, slope, weight in zip(logits, got, slopes, weights, strict=True):
        odds = [math.exp(x) for x in row.tolist()]
        p = [x / sum(odds) for x in odds]
        expected = -sum(x * math.log(x) for x in p)
        assert entropy.item() == pytest.approx(expected, abs=1e-5)
        by_hand = [-float(weight) * x * (math.log(x) + expected) for x in p]
        assert slope.tolist() == pytest.approx(by_hand, abs=1e-5)


def test_entropy_where_nothing_is_left_to_choose() -> None:
    """One possible token, and equal ones: the lowest and the highest entropy have no slope."""
    logits = torch.full((2, 4), -math.inf)
    logits[0, 2] = 3.0
    logits[1] = -7.0
    logits.requires_grad_()
    got = entropy_from_logits(logits)
    assert got.tolist() == pytest.approx([0.0, math.log(4)], abs=1e-6)
    slopes = torch.autograd.grad(got.sum(), logits)[0]
    torch.testing.assert_close(slopes, torch.zeros(2, 4), rtol=0, atol=1e-6)
    assert entropy_from_logits(torch.tensor([[5.0]])).tolist() == pytest.approx([0.0])


def test_entropy_of_half_precision_is_summed_in_float32(logits: torch.Tensor) -> None:
    half = logits.bfloat16()
    got = entropy_from_logits(half)
    p = half.double().softmax(-1)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, -(p * p.log()).sum(-1).float(), rtol=0, atol=1e-5)
