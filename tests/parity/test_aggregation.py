"""Weights of tokens in a batch's loss, by hand."""

from __future__ import annotations

import pytest
import torch

from cooper.functional import aggregation_weights, pad_sequences, spread_to_tokens

OFFSETS = torch.tensor([0, 1, 4])  # one token, three tokens
BOTH = torch.tensor([True, True])


def weights(keep: torch.Tensor, mode: str) -> list[float]:
    return aggregation_weights(OFFSETS, keep, mode).tolist()


def test_token_mean_counts_every_token_alike() -> None:
    assert weights(BOTH, "token_mean") == pytest.approx([0.25] * 4)


def test_sequence_mean_counts_every_completion_alike() -> None:
    assert weights(BOTH, "sequence_mean") == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean"])
def test_what_is_masked_counts_neither_above_nor_below(mode: str) -> None:
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    assert weights(first, mode) == pytest.approx([1, 0, 0, 0])
    assert weights(second, mode) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean"])
def test_nothing_kept_gives_zeros(mode: str) -> None:
    assert weights(~BOTH, mode) == [0, 0, 0, 0]
    assert len(aggregation_weights(torch.tensor([0]), BOTH[:0], mode)) == 0


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
