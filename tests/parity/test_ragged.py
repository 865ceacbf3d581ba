"""Sums, means and places of ragged rows against plain Python lists."""

from __future__ import annotations

import pytest
import torch

from cooper.functional import (
    offsets_from,
    segment_mean,
    segment_sum,
    sums_to_go,
    token_positions,
)

# none at either end, in the middle, lengths of 1 only, one row, no tokens, no rows
LENGTHS = [[3, 1, 2], [0, 2, 0, 3, 0], [1, 1, 1], [4], [0, 0], []]


def rows_of(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, list[list[float]]]:
    values = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(len(lengths)))
    rows = [row.tolist() for row in values.split(lengths)] if lengths else []
    return values.requires_grad_(), offsets_from(torch.tensor(lengths, dtype=torch.long)), rows


def test_offsets_by_hand() -> None:
    assert offsets_from(torch.tensor([2, 0, 3])).tolist() == [0, 2, 2, 5]
    assert offsets_from(torch.tensor([1])).tolist() == [0, 1]
    assert offsets_from(torch.zeros(0, dtype=torch.long)).tolist() == [0]


def test_sums_and_means_by_hand() -> None:
    values, offsets = torch.tensor([1.0, 2.0, 6.0, 5.0]), torch.tensor([0, 3, 3, 4])
    assert segment_sum(values, offsets).tolist() == [9, 0, 5]
    assert segment_mean(values, offsets).tolist() == [3, 0, 5]
    assert sums_to_go(values, offsets).tolist() == [9, 8, 6, 5]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_segment_sum(lengths: list[int]) -> None:
    values, offsets, rows = rows_of(lengths)
    got = segment_sum(values, offsets)
    torch.testing.assert_close(got.tolist(), [float(sum(row)) for row in rows], rtol=0, atol=1e-6)
    weights = torch.arange(len(lengths)) + 2.0
    slopes = torch.autograd.grad((weights * got).sum(), values)[0].tolist()
    assert slopes == [i + 2.0 for i, row in enumerate(rows) for _ in row]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_segment_mean(lengths: list[int]) -> None:
    values, offsets, rows = rows_of(lengths)
    got = segment_mean(values, offsets)
    expected = [sum(row) / len(row) if row else 0.0 for row in rows]
    torch.testing.assert_close(got.tolist(), expected, rtol=0, atol=1e-6)
    weights = torch.arange(len(lengths)) + 2.0
    slopes = torch.autograd.grad((weights * got).sum(), values)[0].tolist()
    assert slopes == pytest.approx([(i + 2) / len(row) for i, row in enumerate(rows) for _ in row])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_sums_to_go(lengths: list[int]) -> None:
    values, offsets, rows = rows_of(lengths)
    got = sums_to_go(values, offsets)
    expected = [sum(row[t:]) for row in rows for t in range(len(row))]
    torch.testing.assert_close(got.tolist(), expected, rtol=0, atol=1e-6)
    # The t-th token is part of the t + 1 returns up to its own.
    slopes = torch.autograd.grad(got.sum(), values)[0].tolist()
    assert slopes == [t + 1 for row in rows for t in range(len(row))]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3, 1], [1, 1], [4, 0], [2], []])
def test_token_positions_in_the_order_asked(rows: list[int]) -> None:
    values, offsets, all_rows = rows_of([2, 3, 0, 1, 4])
    where = token_positions(offsets, torch.tensor(rows, dtype=torch.long))
    assert where.dtype is torch.int64
    assert values[where].tolist() == [x for row in rows for x in all_rows[row]]


def test_token_positions_by_hand() -> None:
    offsets = torch.tensor([0, 2, 2, 5])
    assert token_positions(offsets, torch.tensor([2, 0])).tolist() == [2, 3, 4, 0, 1]
    assert token_positions(offsets, torch.tensor([1])).tolist() == []
