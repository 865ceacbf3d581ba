"""The reward model's losses, on logits."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def contrastive_loss(
    chosen: Float[Tensor, " K"], rejected: Float[Tensor, " K"]
) -> Float[Tensor, " K"]:
    r"""Per pair: :math:`-\log \sigma(M(q, r, o^+) - M(q, r, o^-))` (Cooper, arXiv 2508.05613).

    Args:
        chosen: [K] logits of the verified-right completions.
        rejected: [K] logits of the verified-wrong ones.

    Returns:
        [K] losses.
    """
    return F.softplus(rejected - chosen)


def binary_cross_entropy(
    logits: Float[Tensor, " N"], labels: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    r"""Per completion: :math:`-y \log p - (1 - y) \log(1 - p)`, :math:`p = \sigma(M)`.

    Args:
        logits: [N] scores before the sigmoid.
        labels: [N] 1 for right, 0 for wrong, as floats.

    Returns:
        [N] losses.
    """
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
