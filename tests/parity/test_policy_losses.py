"""Policy losses against their papers' formulas: by hand, and with one token at a time."""

from __future__ import annotations

import math

import pytest
import torch

from cooper.functional import (
    aggregation_weights,
    cispo,
    clipped_surrogate,
    offsets_from,
    sequence_clipped_surrogate,
    spread_to_tokens,
    truncated_importance,
)

LENGTHS = torch.tensor([3, 1, 5, 1, 4, 2])
OFFSETS = offsets_from(LENGTHS)


def drawn(seed: int, spread: float = 0.5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """New and old log-probabilities of six completions, and one advantage for each of them."""
    rng = torch.Generator().manual_seed(seed)
    old = -torch.rand(16, generator=rng) * 3
    moved = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0, 0.0])  # so that some lie out of bounds
    noise = torch.randn(16, generator=rng) + spread_to_tokens(moved, OFFSETS)
    new = old + noise * spread
    return new.requires_grad_(), old, torch.tensor([1.0, -1.0, -0.5, 0.7, 0.0, -2.0])


def gradient(losses: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(losses.sum(), new, retain_graph=True)[0]


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


def ppo_token(
    ratio: float, advantage: float, low: float, high: float, dual: float
) -> tuple[float, float, bool]:
    """Loss, gradient in the log-probability and whether it was cut, by cases of the sign."""
    capped = ratio
    if advantage > 0:
        capped = min(ratio, 1 + high)
    elif advantage < 0:
        capped = max(ratio, 1 - low)
        capped = min(capped, dual) if dual else capped
    cut = capped != ratio
    return -advantage * capped, 0.0 if cut else -advantage * ratio, cut


@pytest.mark.parametrize("dual", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_clipped_surrogate_equals_the_formula_token_by_token(seed: int, dual: float) -> None:
    new, old, per_completion = drawn(seed, spread=1.0)
    advantages = spread_to_tokens(per_completion, OFFSETS)
    losses, clipped = clipped_surrogate(
        new, old, advantages, clip_low=0.1, clip_high=0.3, dual_clip=dual
    )
    ratios = (new - old).exp().tolist()
    expected = [
        ppo_token(r, a, 0.1, 0.3, dual) for r, a in zip(ratios, advantages.tolist(), strict=True)
    ]
    torch.testing.assert_close(losses.tolist(), [e[0] for e in expected], rtol=1e-5, atol=1e-6)
    got = gradient(losses, new).tolist()
    torch.testing.assert_close(got, [e[1] for e in expected], rtol=1e-5, atol=1e-6)
    assert clipped.tolist() == [e[2] for e in expected]
    assert 0 < int(clipped.sum()) < 16


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "slope"),
    [
        (5.0, -2.0, 6.0, True, 0.0),  # max(-min(...), -c A) = 3 * 2 instead of 10
        (2.5, -2.0, 5.0, False, 5.0),
        (5.0, 2.0, -2.4, True, 0.0),  # above zero the plain bound was there already
        (0.5, -2.0, 1.6, True, 0.0),
        (5.0, 0.0, 0.0, False, 0.0),
    ],
)
def test_dual_clip(
    ratio: float, advantage: float, loss: float, clipped: bool, slope: float
) -> None:
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    losses, flags = clipped_surrogate(new, torch.zeros(1), torch.tensor([advantage]), dual_clip=3.0)
    assert losses.item() == pytest.approx(loss, abs=1e-5)
    assert float(gradient(losses, new)) == pytest.approx(slope, abs=1e-5)
    assert bool(flags) is clipped


def test_dual_clip_off_or_out_of_reach_is_plain() -> None:
    new, old, per_completion = drawn(0, spread=1.0)
    advantages = spread_to_tokens(per_completion, OFFSETS)
    plain, flags = clipped_surrogate(new, old, advantages)
    for dual in (0.0, 1e6):
        losses, clipped = clipped_surrogate(new, old, advantages, dual_clip=dual)
        assert torch.equal(losses, plain)
        assert torch.equal(clipped, flags)
        assert torch.equal(gradient(losses, new), gradient(plain, new))


def test_dual_clip_is_the_ratio_capped_first() -> None:
    """TRL's delta: min(min(ratio, delta) A, clip(ratio) A), with delta above 1 + clip_high."""
    new, old, per_completion = drawn(1, spread=1.0)
    advantages = spread_to_tokens(per_completion, OFFSETS)
    ratio = (new - old).exp()
    expected = -torch.min(ratio.clamp(max=1.5) * advantages, ratio.clamp(0.8, 1.2) * advantages)
    losses, _ = clipped_surrogate(new, old, advantages, dual_clip=1.5)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient(losses, new), gradient(expected, new))


def test_gspo_by_hand() -> None:
    # log-ratios (0.3, -0.1): s = e^0.1; times A = 2 on each token
    new = torch.tensor([-0.7, -1.1, -2.0], requires_grad=True)
    old = torch.tensor([-1.0, -1.0, -2.0])
    losses, clipped = sequence_clipped_surrogate(
        new, old, torch.tensor([2.0, 2.0, -1.0]), torch.tensor([0, 2, 3]), clip_high=0.2
    )
    s = math.exp(0.1)
    torch.testing.assert_close(losses, torch.tensor([-2 * s, -2 * s, 1.0]))
    torch.testing.assert_close(gradient(losses, new), torch.tensor([-2 * s, -2 * s, 1.0]))
    assert not clipped.any()


def test_gspo_clips_whole_completions() -> None:
    old = torch.zeros(4)
    new = torch.tensor([0.5, -0.1, -0.5, 0.1], requires_grad=True)  # means +0.2 and -0.2
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    losses, clipped = sequence_clipped_surrogate(new, old, advantages, torch.tensor([0, 2, 4]))
    torch.testing.assert_close(losses, torch.tensor([-1.0004, -1.0004, 0.9997, 0.9997]))
    assert clipped.all()
    assert not gradient(losses, new).any()


@pytest.mark.parametrize("seed", range(4))
def test_gspo_equals_its_plain_form(seed: int) -> None:
    """Mean over completions of -min(s A, clip(s) A), s = exp(mean log-ratio): equation 5."""
    new, old, advantages = drawn(seed)
    plain = torch.zeros(())
    for i, advantage in enumerate(advantages):
        span = slice(int(OFFSETS[i]), int(OFFSETS[i + 1]))
        s = (new[span] - old[span]).mean().exp()
        plain = plain - torch.min(s * advantage, s.clamp(0.9, 1.1) * advantage) / len(advantages)
    losses, clipped = sequence_clipped_surrogate(
        new, old, spread_to_tokens(advantages, OFFSETS), OFFSETS, clip_low=0.1, clip_high=0.1
    )
    weights = aggregation_weights(OFFSETS, torch.ones(6, dtype=torch.bool), "sequence_mean")
    torch.testing.assert_close((weights * losses).sum(), plain)
    torch.testing.assert_close(gradient(weights * losses, new), gradient(plain, new))
    assert 0 < int(clipped.sum()) < 16


def test_gspo_token_keeps_each_tokens_own_advantage() -> None:
    """Equation 14's use: value s A_t, and gradient s A_t on the token itself alone."""
    new = torch.tensor([0.3, -0.1], requires_grad=True)
    advantages = torch.tensor([2.0, -0.5])
    losses, _ = sequence_clipped_surrogate(
        new, torch.zeros(2), advantages, torch.tensor([0, 2]), clip_high=0.2
    )
    torch.testing.assert_close(losses, -math.exp(0.1) * advantages)
    torch.testing.assert_close(gradient(losses, new), -math.exp(0.1) * advantages)


@pytest.mark.parametrize("seed", range(2))
def test_gspo_of_one_token_completions_is_the_clipped_surrogate(seed: int) -> None:
    new, old, _ = drawn(seed)
    advantages = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    bounds = {"clip_low": 0.2, "clip_high": 0.3}
    losses, clipped = sequence_clipped_surrogate(new, old, advantages, torch.arange(17), **bounds)
    expected, flags = clipped_surrogate(new, old, advantages, **bounds)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient(losses, new), gradient(expected, new))
    assert torch.equal(clipped, flags)


def test_gspo_does_not_depend_on_the_order_of_completions() -> None:
    new, old, per_completion = drawn(5)
    advantages = spread_to_tokens(per_completion, OFFSETS)
    order = [4, 0, 5, 3, 1, 2]
    where = torch.cat([torch.arange(16)[OFFSETS[i] : OFFSETS[i + 1]] for i in order])
    moved = offsets_from(LENGTHS[order])
    expected, _ = sequence_clipped_surrogate(new, old, advantages, OFFSETS)
    got, _ = sequence_clipped_surrogate(new[where], old[where], advantages[where], moved)
    torch.testing.assert_close(got, expected[where])


def test_gspo_of_a_huge_ratio_stays_finite() -> None:
    new = torch.zeros(2, requires_grad=True)
    losses, _ = sequence_clipped_surrogate(
        new, torch.full((2,), -200.0), -torch.ones(2), torch.tensor([0, 2])
    )
    assert losses.tolist() == pytest.approx([math.exp(20)] * 2, rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "low", "weight", "clipped"),
    [(1.5, 1.0, 1.2, True), (0.5, 1.0, 0.5, False), (0.5, 0.2, 0.8, True), (1.1, 0.2, 1.1, False)],
)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo(ratio: float, low: float, weight: float, clipped: bool, advantage: float) -> None:
    """Loss -w A log p, gradient -w A: of either sign, and clipped or not."""
    new = torch.tensor([-0.5], requires_grad=True)
    old = new.detach() - math.log(ratio)
    losses, flags = cispo(new, old, torch.tensor([advantage]), clip_low=low, clip_high=0.2)
    assert losses.item() == pytest.approx(weight * advantage * 0.5, abs=1e-5)
    assert float(gradient(losses, new)) == pytest.approx(-weight * advantage, abs=1e-5)
    assert bool(flags) is clipped


@pytest.mark.parametrize("seed", range(3))
def test_cispo_equals_the_formula_token_by_token(seed: int) -> None:
    new, old, per_completion = drawn(seed, spread=1.0)
    advantages = spread_to_tokens(per_completion, OFFSETS)
    losses, clipped = cispo(new, old, advantages, clip_low=0.4, clip_high=0.5)
    ratios = [math.exp(n - o) for n, o in zip(new.tolist(), old.tolist(), strict=True)]
    slopes = [-min(max(r, 0.6), 1.5) * a for r, a in zip(ratios, advantages.tolist(), strict=True)]
    expected = [slope * n for slope, n in zip(slopes, new.tolist(), strict=True)]
    torch.testing.assert_close(losses.tolist(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(losses, new).tolist(), slopes, rtol=1e-5, atol=1e-6)
    assert clipped.tolist() == [not 0.6 <= r <= 1.5 for r in ratios]
    assert not clipped.requires_grad


def test_cispo_inside_its_bounds_has_the_gradient_of_the_surrogate() -> None:
    new, old, per_completion = drawn(2, spread=0.05)
    advantages = spread_to_tokens(per_completion, OFFSETS)
    losses, clipped = cispo(new, old, advantages, clip_high=1.0)
    expected, _ = clipped_surrogate(new, old, advantages, clip_low=1.0, clip_high=1.0)
    assert not clipped.any()
    torch.testing.assert_close(gradient(losses, new), gradient(expected, new))


def test_cispo_has_no_lower_bound_unless_asked() -> None:
    new = torch.tensor([-15.0], requires_grad=True)
    losses, clipped = cispo(new, torch.zeros(1), torch.tensor([1.0]))
    assert not clipped.any()
    assert float(gradient(losses, new)) == pytest.approx(-math.exp(-15), rel=1e-5)


def test_truncated_importance() -> None:
    drawn_at = torch.zeros(4)
    old = torch.tensor([0.5, 2.0, 8.0, 1.0]).log().requires_grad_()
    weights = truncated_importance(old, drawn_at, 2.0)
    torch.testing.assert_close(weights, torch.tensor([0.5, 2.0, 2.0, 1.0]))
    assert not weights.requires_grad
    torch.testing.assert_close(
        truncated_importance(old, drawn_at, 0.75), torch.tensor([0.5, 0.75, 0.75, 0.75])
    )


def test_truncated_importance_of_the_policy_that_drew_is_exactly_one() -> None:
    logprobs = -torch.rand(9, generator=torch.Generator().manual_seed(0)) * 10
    assert truncated_importance(logprobs, logprobs.clone(), 2.0).tolist() == [1.0] * 9


def test_truncated_importance_stays_finite() -> None:
    old, drawn_at = torch.tensor([0.0, -300.0]), torch.tensor([-300.0, 0.0])
    assert truncated_importance(old, drawn_at, 5.0).tolist() == pytest.approx([5.0, 0.0], abs=1e-8)


def test_no_tokens() -> None:
    empty, offsets = torch.zeros(0), torch.tensor([0])
    for losses, clipped in (
        clipped_surrogate(empty, empty, empty, dual_clip=3.0),
        sequence_clipped_surrogate(empty, empty, empty, offsets),
        sequence_clipped_surrogate(empty, empty, empty, torch.tensor([0, 0])),
        cispo(empty, empty, empty),
    ):
        assert losses.shape == clipped.shape == (0,)
        assert clipped.dtype is torch.bool
    assert truncated_importance(empty, empty, 2.0).shape == (0,)
