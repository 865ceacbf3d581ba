"""The reward model's losses: hand values and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from cooper.functional import binary_cross_entropy, centring_penalty, contrastive_loss


@pytest.mark.parametrize(
    ("chosen", "rejected", "loss"),
    [
        (1.0, 1.0, 0.6931472),  # -log(1/2)
        (3.0, 1.0, 0.1269280),  # log(1 + e^-2)
        (1.0, 3.0, 2.1269280),  # log(1 + e^2)
        (-100.0, 100.0, 200.0),  # no overflow
    ],
)
def test_contrastive(chosen: float, rejected: float, loss: float) -> None:
    got = contrastive_loss(torch.tensor([chosen]), torch.tensor([rejected]))
    assert float(got) == pytest.approx(loss, abs=1e-5)


def test_contrastive_gradient_pulls_the_logits_apart() -> None:
    chosen = torch.tensor([3.0], requires_grad=True)
    rejected = torch.tensor([1.0], requires_grad=True)
    contrastive_loss(chosen, rejected).sum().backward()
    share = 1 / (1 + math.exp(2))  # sigmoid(-(chosen - rejected))
    assert float(chosen.grad) == pytest.approx(-share, abs=1e-6)
    assert float(rejected.grad) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("logit", "label", "loss"),
    [(0.0, 1.0, 0.6931472), (2.0, 1.0, 0.1269280), (2.0, 0.0, 2.1269280), (-200.0, 1.0, 200.0)],
)
def test_binary_cross_entropy(logit: float, label: float, loss: float) -> None:
    got = binary_cross_entropy(torch.tensor([logit]), torch.tensor([label]))
    assert float(got) == pytest.approx(loss, abs=1e-5)


def test_binary_cross_entropy_gradient_is_probability_minus_label() -> None:
    logits = torch.tensor([0.0, 2.0], requires_grad=True)
    binary_cross_entropy(logits, torch.tensor([1.0, 0.0])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([-0.5, 1 / (1 + math.exp(-2))]))


def pairs(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(count)
    chosen, rejected = torch.randn(2, count, generator=rng) * 3
    return chosen.requires_grad_(), rejected.requires_grad_()


@pytest.mark.parametrize(
    ("margin", "loss"),
    [
        (1.0, 0.3132617),  # log(1 + e^-(2 - 1))
        (2.0, 0.6931472),  # the difference is the margin
        (4.0, 2.1269280),  # log(1 + e^2)
    ],
)
def test_margin(margin: float, loss: float) -> None:
    got = contrastive_loss(torch.tensor([3.0]), torch.tensor([1.0]), margin=margin)
    assert float(got) == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.7, 3.0])
def test_contrastive_equals_the_formula_pair_by_pair(margin: float) -> None:
    chosen, rejected = pairs()
    losses = contrastive_loss(chosen, rejected, margin=margin)
    gaps = [c - r - margin for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    expected = [-math.log(1 / (1 + math.exp(-gap))) for gap in gaps]
    torch.testing.assert_close(losses.tolist(), expected, rtol=1e-5, atol=1e-6)
    up, down = torch.autograd.grad(losses.sum(), (chosen, rejected))
    slopes = [-1 / (1 + math.exp(gap)) for gap in gaps]  # -sigmoid(-(gap))
    torch.testing.assert_close(up.tolist(), slopes, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(down, -up)


def test_margin_zero_is_the_plain_loss() -> None:
    chosen, rejected = pairs()
    expected = contrastive_loss(chosen, rejected)
    assert torch.equal(contrastive_loss(chosen, rejected, margin=0.0), expected)
    # and a margin is the same as a chosen logit that much lower
    torch.testing.assert_close(
        contrastive_loss(chosen, rejected, margin=1.5), contrastive_loss(chosen - 1.5, rejected)
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "penalty", "slope"),
    [(3.0, -1.0, 4.0, 4.0), (2.0, -2.0, 0.0, 0.0), (-1.0, -2.0, 9.0, -6.0), (0.0, 0.0, 0.0, 0.0)],
)
def test_centring(chosen: float, rejected: float, penalty: float, slope: float) -> None:
    """(a + b)^2, whose slope 2 (a + b) is the same for both."""
    logits = torch.tensor([chosen, rejected], requires_grad=True)
    got = centring_penalty(logits[:1], logits[1:])
    assert got.item() == pytest.approx(penalty)
    assert torch.autograd.grad(got.sum(), logits)[0].tolist() == pytest.approx([slope] * 2)


def test_centring_sees_the_offset_that_the_contrastive_loss_leaves_free() -> None:
    chosen, rejected = pairs()
    shifted = contrastive_loss(chosen + 5, rejected + 5)
    torch.testing.assert_close(shifted, contrastive_loss(chosen, rejected), rtol=0, atol=1e-5)
    expected = [(c + r + 10) ** 2 for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    got = centring_penalty(chosen + 5, rejected + 5).tolist()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_no_pairs() -> None:
    assert contrastive_loss(torch.zeros(0), torch.zeros(0), margin=1.0).shape == (0,)
    assert centring_penalty(torch.zeros(0), torch.zeros(0)).shape == (0,)
