"""Log-probabilities of given tokens, without a second copy of the logits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def selective_log_softmax(
    logits: Float[Tensor, "S V"], ids: Int[Tensor, " S"], *, chunk: int = 4096
) -> Float[Tensor, " S"]:
    """``log_softmax(logits)[ids]`` in float32, some rows at a time.

    Args:
        logits: [S, V], any float dtype, already divided by the temperature.
        ids: [S] the tokens asked for.
        chunk: rows turned to float32 at once; bounds the memory of the upcast.

    Returns:
        [S] float32.
    """
    parts = []
    for start in range(0, len(ids), chunk):
        rows = logits[start : start + chunk].float()
        chosen = rows.gather(-1, ids[start : start + chunk, None]).squeeze(-1)
        parts.append(chosen - rows.logsumexp(-1))
    return torch.cat(parts) if parts else logits.new_zeros(0, dtype=torch.float32)


def entropy_from_logits(logits: Float[Tensor, "S V"], *, chunk: int = 4096) -> Float[Tensor, " S"]:
    r"""Entropy of each row's distribution in nats, float32: :math:`-\sum_v p_v \log p_v`.

    Args:
        logits: [S, V], any float dtype; an impossible token may be at minus infinity.
        chunk: rows turned to float32 at once.

    Returns:
        [S] entropies, with gradient where `logits` have one.
    """
    parts = []
    for start in range(0, len(logits), chunk):
        logp = logits[start : start + chunk].float().log_softmax(-1)
        # 0 * log 0 = 0; replaced before the product, so that the gradient is 0 there too.
        parts.append(-(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1))
    return torch.cat(parts) if parts else logits.new_zeros(0, dtype=torch.float32)
