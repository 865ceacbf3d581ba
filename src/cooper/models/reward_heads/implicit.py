"""An implicit process reward: how much likelier the completion is than under a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cooper.checks import at_least
from cooper.models.reward_heads.base import RewardHead, Row
from cooper.models.row_batch import RowBatch
from cooper.models.token_scores import states_and_head, token_scores, vocabulary


class ImplicitHead(RewardHead):
    r"""A causal LM's log-ratio to a frozen reference (PRIME, arXiv 2502.01456, equation 3).

    The logit is :math:`\beta \sum_t \log \pi(o_t | \cdot) - \log \pi_{ref}(o_t | \cdot)` over the
    completion's tokens and what the template has behind them, which stands for the end of the
    sequence. Trained by cross entropy on outcome labels, it gives each token a score of its own.

    Args:
        beta: scale of the log-ratio.
        reference: folder or hub id of the frozen model; None: the backbone as it was before its
            training. A saved model holds the name, not the weights.
        reference_revision: of the reference on the hub.
    """

    name = "implicit"
    causal_lm = True

    def __init__(
        self,
        beta: float = 0.05,
        reference: str | None = None,
        reference_revision: str | None = None,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.reference = reference
        self.reference_revision = reference_revision
        at_least("reward_head", self, beta=1e-6)
        self.frozen: PreTrainedModel | None = None

    def attach(self, reference: PreTrainedModel) -> None:
        """Take the reference's weights; they are never trained."""
        self.frozen = reference.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ImplicitHead:
        """The reference stays in evaluation mode."""
        super().train(mode)
        if self.frozen is not None:
            self.frozen.eval()
        return self

    def record(self) -> dict[str, Any]:
        """Name, beta, and which reference."""
        return {
            "name": self.name,
            "beta": self.beta,
            "reference": self.reference,
            "reference_revision": self.reference_revision,
        }

    def token_scores(
        self, model: PreTrainedModel, rows: Sequence[Row], batch: RowBatch
    ) -> list[Tensor]:
        """N lists of scaled log-ratios, from each completion's first token to its row's end.

        Raises:
            RuntimeError: no reference was attached.
        """
        if self.frozen is None:
            raise RuntimeError("the implicit head has no reference model: call attach() first")
        # A row's first token is predicted by nothing.
        starts = [max(row.completion[0], 1) for row in rows]
        logprobs = _logprobs(model, rows, starts, batch)
        with torch.no_grad():
            # Its attention may be another, so it gets a layout of its own.
            of_frozen = RowBatch.of(self.frozen, rows, batch.pad)
            reference = _logprobs(self.frozen, rows, starts, of_frozen)
        ratios = self.beta * (logprobs - reference)
        lengths = [len(row) - start for row, start in zip(rows, starts, strict=True)]
        return list(ratios.split(lengths))

    def units(self, model: PreTrainedModel, rows: Sequence[Row], batch: RowBatch) -> Tensor:
        """[N] logits: sums of the token scores."""
        return torch.stack([s.sum() for s in self.token_scores(model, rows, batch)])


def _logprobs(
    model: PreTrainedModel, rows: Sequence[Row], starts: Sequence[int], batch: RowBatch
) -> Tensor:
    """[sum of tokens] log-probabilities of each row's tokens from its start on."""
    read = [range(start, len(row)) for start, row in zip(starts, rows, strict=True)]
    # Token t is predicted at t - 1.
    places = batch.at([[t - 1 for t in tokens] for tokens in read])
    states, head = states_and_head(model, batch.given, places)
    return token_scores(head, states, batch.ids[batch.at(read)], vocabulary(model)).logprobs
