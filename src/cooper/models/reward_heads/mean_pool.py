"""One logit of the mean over the completion's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cooper.models.reward_heads.base import RewardHead, Row, hidden_states, score
from cooper.models.row_batch import RowBatch


class MeanPoolHead(RewardHead):
    """The score layer on the mean of the last hidden states over the completion's tokens.

    A completion without tokens is read at the row's last token.
    """

    name = "mean_pool"

    def units(self, model: PreTrainedModel, rows: Sequence[Row], batch: RowBatch) -> Tensor:
        """[N] logits."""
        read = [range(*row.completion) or [len(row) - 1] for row in rows]
        hidden = hidden_states(model, batch)[batch.at(read)]
        counts = torch.tensor([len(tokens) for tokens in read], device=hidden.device)
        owners = torch.arange(len(rows), device=hidden.device).repeat_interleave(counts)
        sums = torch.zeros(len(rows), hidden.shape[1], device=hidden.device)
        means = sums.index_add(0, owners, hidden.float()) / counts[:, None]
        return score(model, means.to(hidden.dtype))
