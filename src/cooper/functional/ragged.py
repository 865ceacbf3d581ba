"""Between flat tokens, rows and padded views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def spread_to_tokens(
    values: Shaped[Tensor, " N"], offsets: Int[Tensor, " N_plus_1"]
) -> Shaped[Tensor, " S"]:
    """Repeat a value per completion on each of its tokens: [N] -> [S]."""
    return values.repeat_interleave(offsets[1:] - offsets[:-1])


def pad_sequences(
    sequences: Sequence[Sequence[int] | Tensor],
    pad: int,
    *,
    side: str = "right",
    device: torch.device | str = "cpu",
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Pad rows to one length.

    Args:
        sequences: B rows of token ids.
        pad: id that fills up.
        side: "right", or "left" as generation needs it.
        device: of the result.

    Returns:
        [B, T] ids and [B, T] attention mask (1: a real token), both int64.
    """
    longest = max((len(row) for row in sequences), default=0)
    ids = torch.full((len(sequences), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for index, row in enumerate(sequences):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[index, where] = torch.as_tensor(row, dtype=torch.long)
        mask[index, where] = 1
    return ids.to(device), mask.to(device)
