"""Log-probabilities of given tokens, without a second copy of the logits."""

from __future__ import annotations

from typing import Any

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
    return _SelectiveLogSoftmax.apply(logits, ids, chunk)  # type: ignore[return-value]


class _SelectiveLogSoftmax(torch.autograd.Function):
    """With the gradient g * (onehot - softmax) as one table; autograd's own steps make three."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, chunk: int) -> Tensor:
        norms = [rows.float().logsumexp(-1) for rows in logits.split(chunk)]
        norm = torch.cat(norms) if len(logits) else logits.new_zeros(0, dtype=torch.float32)
        ctx.save_for_backward(logits, ids, norm)
        ctx.chunk = chunk
        return logits.gather(-1, ids[:, None])[:, 0].float() - norm

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, ids, norm = ctx.saved_tensors
        found = torch.empty_like(logits)
        for start in range(0, len(ids), ctx.chunk):
            where = slice(start, start + ctx.chunk)
            upstream = gradients[0][where, None]
            rows = (logits[where].float() - norm[where, None]).exp_().mul_(-upstream)
            found[where] = rows.scatter_add_(-1, ids[where, None], upstream)
        return found, None, None


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
