"""Log-probabilities of given tokens, without a second copy of the logits."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rows_at_once(device: torch.device, width: int) -> int:
    """Rows of so many floats that are worked on at once: what a CPU's cache holds, 256 MB of a GPU.

    Larger tables cost a CPU more in fresh pages than in arithmetic.
    """
    return max(1, (2**19 if device.type == "cpu" else 2**26) // max(width, 1))


def selective_log_softmax(
    logits: Float[Tensor, "S V"], ids: Int[Tensor, " S"], *, chunk: int | None = None
) -> Float[Tensor, " S"]:
    """``log_softmax(logits)[ids]`` in float32, some rows at a time.

    Args:
        logits: [S, V], any float dtype, already divided by the temperature.
        ids: [S] the tokens asked for.
        chunk: rows turned to float32 at once; by default :func:`rows_at_once`.

    Returns:
        [S] float32.
    """
    return selective_log_softmax_and_entropy(logits, ids, chunk=chunk)[0]


def selective_log_softmax_and_entropy(
    logits: Float[Tensor, "S V"], ids: Int[Tensor, " S"], *, chunk: int | None = None
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """The same, and each row's entropy without gradient, from one table of exponentials.

    Args:
        logits: as of :func:`selective_log_softmax`.
        ids: likewise.
        chunk: likewise.

    Returns:
        [S] log-probabilities, and [S] entropies in nats, both float32.
    """
    chunk = chunk or rows_at_once(logits.device, logits.shape[-1])
    return _SelectiveLogSoftmax.apply(logits, ids, chunk)  # type: ignore[return-value]


class _SelectiveLogSoftmax(torch.autograd.Function):
    """With the gradient g * (onehot - softmax) as one table; autograd's own steps make three."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        norm = torch.empty(len(ids), dtype=torch.float32, device=logits.device)
        entropy = torch.empty_like(norm)
        lowest = torch.finfo(torch.float32).min
        for start in range(0, len(ids), chunk):
            where = slice(start, start + chunk)
            # Minus infinity is an impossible token: 0 times the lowest number is 0.
            rows = logits[where].float().clamp_min(lowest)
            top = rows.amax(-1, keepdim=True)
            weights = (rows - top).exp_()
            total = weights.sum(-1)
            norm[where] = top[:, 0] + total.log()
            # H = log Z - sum_v p_v x_v
            entropy[where] = norm[where] - weights.mul_(rows).sum(-1) / total
        ctx.save_for_backward(logits, ids, norm)
        ctx.chunk = chunk
        ctx.mark_non_differentiable(entropy)
        return logits.gather(-1, ids[:, None])[:, 0].float() - norm, entropy

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


def entropy_from_logits(
    logits: Float[Tensor, "S V"], *, chunk: int | None = None
) -> Float[Tensor, " S"]:
    r"""Entropy of each row's distribution in nats, float32: :math:`-\sum_v p_v \log p_v`.

    Args:
        logits: [S, V], any float dtype; an impossible token may be at minus infinity.
        chunk: rows turned to float32 at once; by default :func:`rows_at_once`.

    Returns:
        [S] entropies, with gradient where `logits` have one.
    """
    chunk = chunk or rows_at_once(logits.device, logits.shape[-1])
    parts = []
    for start in range(0, len(logits), chunk):
        logp = logits[start : start + chunk].float().log_softmax(-1)
        # 0 * log 0 = 0; replaced before the product, so that the gradient is 0 there too.
        parts.append(-(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1))
    return torch.cat(parts) if parts else logits.new_zeros(0, dtype=torch.float32)
