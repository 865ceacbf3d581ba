"""The estimators of KL(policy || reference) against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from cooper.functional import kl_penalty


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # d = log p_ref - log p = ln 2
        ("k1", -0.6931472),
        ("k2", 0.2402265),  # (ln 2)^2 / 2
        ("k3", 0.3068528),  # 2 - ln 2 - 1
    ],
)
def test_by_hand(estimator: str, expected: float) -> None:
    got = kl_penalty(torch.tensor([-2.0]), torch.tensor([-2.0 + math.log(2)]), estimator)
    assert float(got) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("estimator", "gradient"), [("k1", 1.0), ("k2", -0.6931472), ("k3", -1.0)])
def test_gradient_in_the_policys_logprob(estimator: str, gradient: float) -> None:
    logprobs = torch.tensor([-2.0], requires_grad=True)
    kl_penalty(logprobs, torch.tensor([-2.0 + math.log(2)]), estimator).sum().backward()
    assert float(logprobs.grad) == pytest.approx(gradient, abs=1e-6)  # k1: 1, k2: -d, k3: 1 - e^d


def test_k2_and_k3_are_never_negative() -> None:
    d = torch.linspace(-30, 30, 601)
    for estimator in ("k2", "k3"):
        assert bool((kl_penalty(torch.zeros_like(d), d, estimator) >= 0).all())
        assert float(kl_penalty(torch.ones(1), torch.ones(1), estimator)) == 0


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_expectation_is_the_exact_divergence(estimator: str) -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    q = torch.tensor([0.2, 0.2, 0.3, 0.3])
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    expected = (p * kl_penalty(p.log(), q.log(), estimator)).sum()
    assert float(expected) == pytest.approx(exact, abs=1e-6)


def test_k3_is_clamped() -> None:
    d = torch.tensor([1000.0, 3.0, -15.0])  # e^3 - 3 - 1 = 16.1; e^-15 + 15 - 1 = 14.0
    assert kl_penalty(torch.zeros(3), d, "k3").tolist() == [10.0, 10.0, 10.0]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_equals_the_formula_token_by_token(estimator: str) -> None:
    rng = torch.Generator().manual_seed(0)
    logprobs = (-torch.rand(30, generator=rng) * 4).requires_grad_()
    reference = -torch.rand(30, generator=rng) * 4  # |d| < 4, and k3 beyond its bound at times
    expected, slopes = [], []
    for ours, theirs in zip(logprobs.tolist(), reference.tolist(), strict=True):
        ratio = math.exp(theirs - ours)  # p_ref / p
        k3 = ratio - math.log(ratio) - 1
        value = {"k1": -math.log(ratio), "k2": math.log(ratio) ** 2 / 2, "k3": min(k3, 10.0)}
        slope = {"k1": 1.0, "k2": -math.log(ratio), "k3": 1 - ratio if k3 < 10 else 0.0}
        expected.append(value[estimator])
        slopes.append(slope[estimator])
    got = kl_penalty(logprobs, reference, estimator)
    torch.testing.assert_close(got.tolist(), expected, rtol=1e-4, atol=1e-5)
    got = torch.autograd.grad(got.sum(), logprobs)[0]
    torch.testing.assert_close(got.tolist(), slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_equal_policies(estimator: str) -> None:
    """Nothing diverges; of the three only k1 has a slope there, the same for every token."""
    logprobs = torch.tensor([-0.5, -3.0], requires_grad=True)
    got = kl_penalty(logprobs, logprobs.detach(), estimator)
    assert got.tolist() == [0.0, 0.0]
    slope = 1.0 if estimator == "k1" else 0.0
    assert torch.autograd.grad(got.sum(), logprobs)[0].tolist() == [slope] * 2
    assert kl_penalty(torch.zeros(0), torch.zeros(0), estimator).shape == (0,)
