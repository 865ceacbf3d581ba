"""clipped_surrogate against PPO's equation 7, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cooper.functional import clipped_surrogate


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 2.0, -2.4, True),  # -min(3.0, 1.2 * 2)
        (1.5, -2.0, 3.0, False),  # -min(-3.0, -2.4)
        (0.5, 2.0, -1.0, False),  # -min(1.0, 1.6)
        (0.5, -2.0, 1.6, True),  # -min(-1.0, -1.6)
        (1.1, 2.0, -2.2, False),
        (0.9, -2.0, 1.8, False),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_quadrants(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    old = torch.tensor([-1.0])
    losses, flags = clipped_surrogate(
        old + math.log(ratio), old, torch.tensor([advantage]), clip_low=0.2, clip_high=0.2
    )
    assert float(losses) == pytest.approx(loss, abs=1e-6)
    assert bool(flags) is clipped


def test_two_bounds() -> None:
    old = torch.zeros(2)
    new = torch.tensor([2.0, 0.5]).log()
    losses, _ = clipped_surrogate(new, old, torch.tensor([1.0, -1.0]), clip_low=0.1, clip_high=0.3)
    torch.testing.assert_close(losses, torch.tensor([-1.3, 0.9]))


def test_gradient_at_ratio_one_is_minus_the_advantage() -> None:
    old = torch.tensor([-0.5, -2.0, -3.0])
    new = old.clone().requires_grad_()
    advantages = torch.tensor([2.0, -0.5, 0.0])
    clipped_surrogate(new, old, advantages)[0].sum().backward()
    torch.testing.assert_close(new.grad, -advantages)


def test_gradient_is_zero_where_clipped_and_ratio_times_advantage_elsewhere() -> None:
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5])
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0])
    new = ratios.log().requires_grad_()
    losses, clipped = clipped_surrogate(new, torch.zeros(4), advantages)
    losses.sum().backward()
    assert clipped.tolist() == [True, True, False, False]
    torch.testing.assert_close(new.grad, torch.tensor([0.0, 0.0, 1.5, -0.5]))


def test_a_huge_ratio_stays_finite() -> None:
    losses, _ = clipped_surrogate(torch.zeros(1), torch.tensor([-200.0]), torch.tensor([-1.0]))
    assert float(losses) == pytest.approx(math.exp(20), rel=1e-5)
