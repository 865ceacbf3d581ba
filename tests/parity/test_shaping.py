"""overlong_penalty against DAPO's equation 13."""

from __future__ import annotations

import pytest
import torch

from cooper.functional import overlong_penalty


def by_cases(length: int, limit: int, buffer: int) -> float:
    if length <= limit - buffer:
        return 0.0
    if length <= limit:
        return ((limit - buffer) - length) / buffer
    return -1.0


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(0, 0.0), (1, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (101, -1.0)],
)
def test_by_hand(length: int, penalty: float) -> None:
    got = overlong_penalty(torch.tensor([length]), 100, 20)
    assert got.dtype is torch.float32
    assert float(got) == pytest.approx(penalty, abs=1e-7)


@pytest.mark.parametrize(("limit", "buffer"), [(100, 20), (7, 7), (7, 1), (1, 1), (20480, 4096)])
def test_equals_the_cases(limit: int, buffer: int) -> None:
    lengths = torch.arange(0, limit + 3, max(1, limit // 100))
    expected = torch.tensor([by_cases(n, limit, buffer) for n in lengths.tolist()])
    torch.testing.assert_close(overlong_penalty(lengths, limit, buffer), expected)


def test_no_completions() -> None:
    assert overlong_penalty(torch.zeros(0, dtype=torch.long), 100, 20).shape == (0,)
