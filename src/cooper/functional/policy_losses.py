"""The policy's loss per token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# As veRL: a ratio beyond e^20 is a numerical accident, not a policy change.
_MAX_LOG_RATIO = 20.0


def clipped_surrogate(
    logprobs: Float[Tensor, " S"],
    old_logprobs: Float[Tensor, " S"],
    advantages: Float[Tensor, " S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> tuple[Float[Tensor, " S"], Bool[Tensor, " S"]]:
    r"""PPO's clipped surrogate with separate bounds.

    :math:`-\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A)`,
    :math:`\rho = p / p_{old}` (PPO, arXiv 1707.06347, equation 7; two bounds: DAPO, arXiv
    2503.14476, equation 10).

    Args:
        logprobs: [S] of the policy, with gradient.
        old_logprobs: [S] of the policy that drew the tokens.
        advantages: [S] of each token's completion.
        clip_low: distance of the lower bound from 1.
        clip_high: distance of the upper bound from 1.

    Returns:
        [S] losses, and [S] whether the clipped branch was the active one (no gradient there).
    """
    log_ratio = (logprobs - old_logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    return torch.maximum(plain, clipped), (clipped > plain).detach()
