"""One logit of the mean over the completion's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cooper.models.reward_heads.base import RewardHead, Row, hidden_states, numbers, score


class MeanPoolHead(RewardHead):
    """The score layer on the mean of the last hidden states over the completion's tokens.

    A completion without tokens is read at the row's last token.
    """

    name = "mean_pool"

    def units(
        self, model: PreTrainedModel, rows: Sequence[Row], ids: Tensor, mask: Tensor
    ) -> Tensor:
        """[N] logits."""
        hidden = hidden_states(model, ids, mask)
        spans = [
            row.completion if row.completion[0] < row.completion[1] else (len(row) - 1, len(row))
            for row in rows
        ]
        starts = numbers((start for start, _ in spans), ids.device)[:, None]
        stops = numbers((stop for _, stop in spans), ids.device)[:, None]
        at = torch.arange(ids.shape[1], device=ids.device)
        inside = ((at >= starts) & (at < stops)).to(hidden.dtype)
        mean = (hidden * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
        return score(model, mean)
