"""Between flat tokens, rows and padded views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def spread_to_tokens(
    values: Shaped[Tensor, " N"], offsets: Int[Tensor, " N_plus_1"]
) -> Shaped[Tensor, " S"]:
    """Repeat a value per completion on each of its tokens: [N] -> [S]."""
    return values.repeat_interleave((offsets[1:] - offsets[:-1]).to(values.device))


def token_positions(
    offsets: Int[Tensor, " N_plus_1"], rows: Int[Tensor, " M"]
) -> Int[Tensor, " tokens_of_rows"]:
    """Where the tokens of some completions stand in the flat tensors."""
    spans = [torch.arange(int(offsets[row]), int(offsets[row + 1])) for row in rows.tolist()]
    return torch.cat(spans) if spans else torch.zeros(0, dtype=torch.long)


def offsets_from(lengths: Int[Tensor, " N"]) -> Int[Tensor, " N_plus_1"]:
    """Offsets of completions that stand side by side."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def segment_sum(
    values: Float[Tensor, " S"], offsets: Int[Tensor, " N_plus_1"]
) -> Float[Tensor, " N"]:
    """Sum over each completion's tokens: [S] -> [N]."""
    if len(offsets) == 1:  # segment_reduce refuses to reduce nothing
        return values
    lengths = (offsets[1:] - offsets[:-1]).to(values.device)
    return torch.segment_reduce(values, "sum", lengths=lengths)


def segment_mean(
    values: Float[Tensor, " S"], offsets: Int[Tensor, " N_plus_1"]
) -> Float[Tensor, " N"]:
    """Mean over each completion's tokens: [S] -> [N]; 0 for a completion without tokens."""
    lengths = (offsets[1:] - offsets[:-1]).to(values.device)
    return segment_sum(values, offsets) / lengths.clamp(min=1)


def sums_to_go(
    values: Float[Tensor, " S"], offsets: Int[Tensor, " N_plus_1"]
) -> Float[Tensor, " S"]:
    """Sum from each token to the end of its completion: the undiscounted return."""
    parts = values.split((offsets[1:] - offsets[:-1]).tolist())
    return torch.cat([part.flip(0).cumsum(0).flip(0) for part in parts]) if parts else values


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
