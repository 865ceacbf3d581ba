"""From hidden states to log-probabilities of tokens, never with all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cooper.functional import entropy_from_logits, selective_log_softmax

# Logits at once, in numbers: 256 MiB of float32, 440 rows of a vocabulary of 152,000.
_AT_ONCE = 2**26


@dataclass(frozen=True)
class TokenScores:
    """What the policy says of completion tokens."""

    logprobs: Tensor  # [sum of T_i over the asked rollouts] float32, with gradient in training
    entropy: Tensor | None  # the same shape, nats; only when asked for


def token_scores(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    ids: Tensor,
    width: int,
    temperature: float,
    *,
    entropy: bool = False,
    entropy_gradient: bool = False,
) -> TokenScores:
    """Score tokens, some of them at a time.

    Where several pieces are needed, each piece's logits are made again in the backward pass.

    Args:
        head: from [n, H] states to [n, V] logits.
        states: [S, H], with gradient in training.
        ids: [S] tokens.
        width: V.
        temperature: the logits are divided by it.
        entropy: also give each position's entropy.
        entropy_gradient: with gradient.
    """

    def piece(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = head(states)
        if temperature != 1:
            logits = logits / temperature
        spread = None
        if entropy or entropy_gradient:
            spread = entropy_from_logits(logits if entropy_gradient else logits.detach())
        return selective_log_softmax(logits, ids), spread

    rows = max(1, _AT_ONCE // width)
    if len(ids) <= rows:
        return TokenScores(*piece(states, ids))
    parts = [
        # There is no chance in a head: no state of a generator has to be kept.
        cast(Any, checkpoint)(piece, *given, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else piece(*given)
        for given in zip(states.split(rows), ids.split(rows), strict=True)
    ]
    spreads = [spread for _, spread in parts if spread is not None]
    return TokenScores(
        torch.cat([logprobs for logprobs, _ in parts]), torch.cat(spreads) if spreads else None
    )


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether a model's logits are its output layer on its backbone's last states, and no more.

    Some cap or scale them besides; found out by comparing both on two tokens.
    """
    head: Any = model.get_output_embeddings()
    backbone = getattr(model, model.base_model_prefix, None)
    if head is None or backbone is None or backbone is model:
        return False
    training = model.training
    model.eval()
    device = model.device
    given: dict[str, Any] = {"input_ids": torch.tensor([[0, 1]], device=device), "use_cache": False}
    whole = model(**given).logits
    states = backbone(**given).last_hidden_state
    model.train(training)
    return states.shape[-1] == _width(head) and torch.equal(head(states).float(), whole.float())


def _width(head: nn.Module) -> int:
    return int(getattr(head, "in_features", -1))
