"""Rows of a reward model as one forward takes them: packed, what they begin with computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cooper.functional import pad_sequences
from cooper.models.batching import common_start, share_starts
from cooper.models.packing import Pack, can_pack, say_padded


@dataclass(frozen=True)
class RowBatch:
    """N rows laid out for a backbone, packed or padded.

    Args:
        given: the backbone's arguments.
        ids: [S] tokens of the layout, flat.
        places: for each row where its tokens stand in it.
        pad: id of the padding, for another model's layout of the same rows.
    """

    given: dict[str, Any]
    ids: Tensor
    places: tuple[Tensor, ...]
    pad: int

    @classmethod
    def of(cls, model: PreTrainedModel, rows: Sequence[Sequence[int]], pad: int) -> RowBatch:
        """Lay rows out as a model can take them.

        Args:
            model: the backbone with its head.
            rows: N rows of ids, none of them empty.
            pad: id of the padding.
        """
        device = model.device
        if not can_pack(model):
            say_padded(model)
            ids, mask = pad_sequences(rows, pad, device=device)
            width = ids.shape[1]
            places = tuple(i * width + torch.arange(len(row)) for i, row in enumerate(rows))
            return cls({"input_ids": ids, "attention_mask": mask}, ids.flatten(), places, pad)
        starts, owners = [0] * len(rows), [0] * len(rows)
        for owner, (start, group) in enumerate(share_starts(rows)):
            for row in group:
                starts[row], owners[row] = start, owner
        own = [
            torch.tensor(row[start:], dtype=torch.long)
            for row, start in zip(rows, starts, strict=True)
        ]
        shared = [row[:start] for row, start in zip(rows, starts, strict=True)]
        pack = Pack.of(shared, own, owners, device)
        return cls(pack.given(), pack.ids.flatten(), pack.places, pad)

    def unmasked(self) -> dict[str, Any]:
        """The arguments for a model that writes a cache: padding behind the rows is not hidden.

        No token of a row looks there.
        """
        if "pack" in self.given:
            return self.given
        ids = self.given["input_ids"]
        return {
            "input_ids": ids,
            "position_ids": torch.arange(ids.shape[1], device=ids.device)[None],
        }

    def at(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Where some tokens of each row stand, row by row: an index into what is [S]."""
        found = [
            places[torch.tensor(wanted, dtype=torch.long)]
            for places, wanted in zip(self.places, tokens, strict=True)
        ]
        return torch.cat(found).to(self.ids.device)


def pair_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens of two rows in a pack, what they begin with once."""
    return len(one) + len(other) - common_start(one, other)
