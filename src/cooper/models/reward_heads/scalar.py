"""The published head: one logit at the last token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cooper.models.reward_heads.base import RewardHead, Row, hidden_states, last_tokens, score


class ScalarHead(RewardHead):
    """The score layer on the last token (arXiv 2508.05613), as transformers' classifiers have it.

    ``AutoModelForSequenceClassification`` gives the same logits.
    """

    name = "scalar"
    places = False

    def units(
        self, model: PreTrainedModel, rows: Sequence[Row], ids: Tensor, mask: Tensor
    ) -> Tensor:
        """[N] logits."""
        hidden = hidden_states(model, ids, mask)
        return score(model, hidden[torch.arange(len(ids), device=ids.device), last_tokens(mask)])
