"""Weights of tokens in a batch's loss, by hand."""

from __future__ import annotations

import pytest
import torch

from cooper.functional import (
    aggregation_weights,
    offsets_from,
    pad_sequences,
    spread_to_tokens,
)

OFFSETS = torch.tensor([0, 1, 4])  # one token, three tokens
BOTH = torch.tensor([True, True])


def weights(keep: torch.Tensor, mode: str) -> list[float]:
    return aggregation_weights(OFFSETS, keep, mode, max_tokens=5).tolist()


def test_token_mean_counts_every_token_alike() -> None:
    assert weights(BOTH, "token_mean") == pytest.approx([0.25] * 4)


def test_sequence_mean_counts_every_completion_alike() -> None:
    assert weights(BOTH, "sequence_mean") == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean"])
def test_what_is_masked_counts_neither_above_nor_below(mode: str) -> None:
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    assert weights(first, mode) == pytest.approx([1, 0, 0, 0])
    assert weights(second, mode) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean", "constant"])
def test_nothing_kept_gives_zeros(mode: str) -> None:
    assert weights(~BOTH, mode) == [0, 0, 0, 0]
    assert len(aggregation_weights(torch.tensor([0]), BOTH[:0], mode, max_tokens=5)) == 0


def test_constant_divides_by_the_length_limit() -> None:
    assert weights(BOTH, "constant") == pytest.approx([1 / 10] * 4)
    # Of the completions that count, not of all: the other way truncation would damp the step.
    assert weights(torch.tensor([False, True]), "constant") == pytest.approx([0, 0.2, 0.2, 0.2])


@pytest.mark.parametrize("limit", [0, -1])
def test_constant_needs_the_length_limit(limit: int) -> None:
    with pytest.raises(ValueError, match="constant"):
        aggregation_weights(OFFSETS, BOTH, "constant", max_tokens=limit)


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("length", [1, 4])
def test_all_modes_agree_where_every_completion_has_the_full_length(mode: str, length: int) -> None:
    offsets = torch.arange(4) * length
    keep = torch.tensor([True, False, True])
    got = aggregation_weights(offsets, keep, mode, max_tokens=length)
    expected = aggregation_weights(offsets, keep, "token_mean")
    torch.testing.assert_close(got, expected)
    assert float(got.sum()) == pytest.approx(1)


def padded_loss(rows: list[list[float]], mode: str, limit: int) -> float:
    """The papers' sums over kept completions and their tokens."""
    sums, lengths = [sum(row) for row in rows], [len(row) for row in rows]
    if mode == "token_mean":
        return sum(sums) / sum(lengths)
    if mode == "sequence_mean":
        return sum(s / n for s, n in zip(sums, lengths, strict=True)) / len(rows)
    return sum(s / limit for s in sums) / len(rows)


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("seed", range(3))
def test_weighted_sum_equals_the_sums_over_rows(mode: str, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (9,), generator=rng)
    keep = torch.rand(9, generator=rng) < 0.6
    losses = torch.randn(int(lengths.sum()), generator=rng)
    rows = [row.tolist() for row, k in zip(losses.split(lengths.tolist()), keep, strict=True) if k]
    offsets = offsets_from(lengths)
    got = (aggregation_weights(offsets, keep, mode, max_tokens=8) * losses).sum()
    assert float(got) == pytest.approx(padded_loss(rows, mode, 8), abs=1e-6)


def test_constant_sums_to_the_mean_length_over_the_limit() -> None:
    assert sum(weights(BOTH, "constant")) == pytest.approx(2 / 5)  # lengths 1 and 3, limit 5


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="constant"):  # behind the type check of pytest's runs
        aggregation_weights.__wrapped__(OFFSETS, BOTH, "median")


def test_spread_to_tokens() -> None:
    assert spread_to_tokens(torch.tensor([5.0, 6.0]), OFFSETS).tolist() == [5, 6, 6, 6]


def test_padding_on_either_side() -> None:
    rows = [[4], torch.tensor([1, 2, 3])]
    ids, mask = pad_sequences(rows, 9)
    assert ids.tolist() == [[4, 9, 9], [1, 2, 3]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    ids, mask = pad_sequences(rows, 9, side="left")
    assert ids.tolist() == [[9, 9, 4], [1, 2, 3]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
