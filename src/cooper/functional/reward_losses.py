"""The reward model's losses, on logits."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def contrastive_loss(
    chosen: Float[Tensor, " K"], rejected: Float[Tensor, " K"], *, margin: float = 0.0
) -> Float[Tensor, " K"]:
    r"""Per pair: :math:`-\log \sigma(M(q, r, o^+) - M(q, r, o^-) - m)`.

    Cooper (arXiv 2508.05613) has m = 0; with a margin it is Llama 2's (arXiv 2307.09288,
    equation 2).

    Args:
        chosen: [K] logits of the verified-right completions.
        rejected: [K] logits of the verified-wrong ones.
        margin: m, in logits.

    Returns:
        [K] losses.
    """
    return F.softplus(rejected - chosen + margin)


def centring_penalty(
    chosen: Float[Tensor, " K"], rejected: Float[Tensor, " K"]
) -> Float[Tensor, " K"]:
    r"""Per pair: :math:`(M(q, r, o^+) + M(q, r, o^-))^2`, 0 where a pair's logits lie around 0.

    The contrastive loss leaves the offset of all logits free, and a score's sigmoid does not
    (arXiv 2312.09244, equation 2; TRL's ``center_rewards_coefficient``).

    Args:
        chosen: [K] logits of the verified-right completions.
        rejected: [K] logits of the verified-wrong ones.

    Returns:
        [K] penalties.
    """
    return (chosen + rejected).square()


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
