"""From hidden states to log-probabilities of tokens, never with all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cooper.functional import entropy_from_logits, selective_log_softmax_and_entropy
from cooper.models.evaluating import evaluating

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
    temperature: float = 1.0,
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
        logprobs, spread = selective_log_softmax_and_entropy(logits, ids)
        if entropy_gradient:
            spread = entropy_from_logits(logits)
        return logprobs, spread if entropy or entropy_gradient else None

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


def vocabulary(model: PreTrainedModel) -> int:
    """V of a model's logits."""
    return int(model.config.get_text_config().vocab_size)


def states_and_head(
    model: PreTrainedModel, given: dict[str, Any], places: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A model's last states at some places, and what makes logits of them.

    Where the model does more to its logits than its output layer, they are its logits themselves.

    Args:
        model: a causal LM.
        given: arguments of its forward on [B, T] ids.
        places: [S] among the B * T.

    Returns:
        [S, H] or [S, V], and a function to [S, V].
    """
    if not has_plain_head(model):
        if len(given["input_ids"]) == 1:  # what is not asked for need not be made
            kept = model(**given, use_cache=False, logits_to_keep=places).logits[0]
        else:
            kept = model(**given, use_cache=False).logits.flatten(0, 1)[places]
        return kept, lambda logits: logits
    backbone = getattr(model, model.base_model_prefix)
    states = backbone(**given, use_cache=False).last_hidden_state
    return states.flatten(0, 1)[places], cast(Any, model.get_output_embeddings())


# What was found out about models. One without values cannot be asked: cooper-plan enters its own.
PLAIN_HEADS: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether a model's logits are its output layer on its backbone's last states, and no more.

    Some cap or scale them besides; found out once, by comparing both on two tokens.
    """
    if model not in PLAIN_HEADS:
        PLAIN_HEADS[model] = _compare(model)
    return PLAIN_HEADS[model]


def _compare(model: PreTrainedModel) -> bool:
    head: Any = model.get_output_embeddings()
    backbone = getattr(model, model.base_model_prefix, None)
    if head is None or backbone is None or backbone is model:
        return False
    given: dict[str, Any] = {"input_ids": torch.tensor([[0, 1]], device=model.device)}
    with evaluating(model):
        whole = model(**given, use_cache=False).logits
        states = backbone(**given, use_cache=False).last_hidden_state
        fits = states.shape[-1] == getattr(head, "in_features", -1)
        return fits and torch.equal(head(states).float(), whole.float())
