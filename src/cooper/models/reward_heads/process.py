"""A logit at the end of each step: a process reward model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cooper.models.reward_heads.base import RewardHead, Row, hidden_states, score
from cooper.models.row_batch import RowBatch


class ProcessHead(RewardHead):
    """The score layer at the last token of each step; the row's logit is the smallest of them.

    A chain is as good as its worst step: the minimum of Math-Shepherd (arXiv 2312.08935, section
    3.4). Let's Verify Step by Step (arXiv 2305.20050) takes the product of the probabilities,
    which also falls with the number of steps. Steps are parted by blank lines. Trained on step
    labels.
    """

    name = "process"
    per_step = True

    def record(self) -> dict[str, str]:
        """Name, and how steps are found and pooled."""
        return {"name": self.name, "steps": "blank_line", "pool": "min"}

    def units(self, model: PreTrainedModel, rows: Sequence[Row], batch: RowBatch) -> Tensor:
        """[sum of steps] logits, row by row."""
        ends = batch.at([row.ends for row in rows])
        return score(model, hidden_states(model, batch)[ends])

    def pool(self, units: Tensor, rows: Sequence[Row]) -> Tensor:
        """[N] the smallest logit of each row's steps."""
        parts = units.split([len(row.ends) for row in rows])
        return torch.stack([part.min() for part in parts])
