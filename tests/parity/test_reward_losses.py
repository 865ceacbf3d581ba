"""The reward model's two losses: hand values and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from cooper.functional import binary_cross_entropy, contrastive_loss


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
