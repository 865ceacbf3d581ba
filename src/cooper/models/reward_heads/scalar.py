"""The published head: one logit at the last token."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from cooper.models.reward_heads.base import RewardHead, Row, hidden_states, score
from cooper.models.row_batch import RowBatch


class ScalarHead(RewardHead):
    """The score layer on the last token (arXiv 2508.05613), as transformers' classifiers have it.

    ``AutoModelForSequenceClassification`` gives the same logits.
    """

    name = "scalar"
    places = False

    def units(self, model: PreTrainedModel, rows: Sequence[Row], batch: RowBatch) -> Tensor:
        """[N] logits."""
        # The row's own last token: transformers looks for the padding id, which goes wrong where
        # padding and end-of-sequence share an id.
        last = batch.at([[len(row) - 1] for row in rows])
        return score(model, hidden_states(model, batch)[last])
