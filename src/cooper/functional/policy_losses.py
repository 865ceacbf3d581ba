"""The policy's loss per token.

Every function takes flat tensors over the tokens of some completions and gives a loss per token,
and whether its clip was at work there; :mod:`cooper.functional.aggregation` makes one figure of it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cooper.functional.ragged import segment_mean, spread_to_tokens

# As veRL: a ratio beyond e^20 is a numerical accident, not a policy change.
_MAX_LOG_RATIO = 20.0


def clipped_surrogate(
    logprobs: Float[Tensor, " S"],
    old_logprobs: Float[Tensor, " S"],
    advantages: Float[Tensor, " S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
) -> tuple[Float[Tensor, " S"], Bool[Tensor, " S"]]:
    r"""PPO's clipped surrogate with separate bounds, and a third one where it is asked for.

    :math:`-\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A)`,
    :math:`\rho = p / p_{old}` (PPO, arXiv 1707.06347, equation 7; two bounds: DAPO, arXiv
    2503.14476, equation 10).

    Where A is negative that loss grows with the ratio without bound. Dual clip stops it at
    :math:`-c A` (arXiv 1912.09729, equation 5; veRL's ``clip_ratio_c``, 3 there; the same as TRL's
    two-sided ``delta`` where that is above the upper bound).

    Args:
        logprobs: [S] of the policy, with gradient.
        old_logprobs: [S] of the policy that drew the tokens.
        advantages: [S] of each token's completion.
        clip_low: distance of the lower bound from 1.
        clip_high: distance of the upper bound from 1.
        dual_clip: c, above 1; 0: none.

    Returns:
        [S] losses, and [S] whether a clipped branch was the active one (no gradient there).
    """
    return _clipped(_ratio(logprobs - old_logprobs), advantages, clip_low, clip_high, dual_clip)


def sequence_clipped_surrogate(
    logprobs: Float[Tensor, " S"],
    old_logprobs: Float[Tensor, " S"],
    advantages: Float[Tensor, " S"],
    offsets: Int[Tensor, " N_plus_1"],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> tuple[Float[Tensor, " S"], Bool[Tensor, " S"]]:
    r"""GSPO: the same surrogate with one ratio for a whole completion.

    :math:`s_i = (p(y_i) / p_{old}(y_i))^{1 / |y_i|}`, written per token as GSPO-token's
    :math:`s_{i,t} = \mathrm{sg}[s_i] \, p_t / \mathrm{sg}[p_t]`: the same value for all tokens of a
    completion, and the gradient of :math:`s_i` where they share an advantage (GSPO, arXiv
    2507.18071, equations 7 and 14; bounds of its section 5.1; veRL's ``gspo``, TRL's
    ``importance_sampling_level="sequence"``). It is the paper's loss under
    ``aggregation="sequence_mean"``. (veRL cuts :math:`\log s_i` at 10, TRL nowhere; here +-20.)

    Args:
        logprobs: [S] of the policy, with gradient.
        old_logprobs: [S] of the policy that drew the tokens.
        advantages: [S] of each token.
        offsets: [N + 1] completion i owns tokens ``offsets[i]:offsets[i + 1]``.
        clip_low: distance of the lower bound from 1.
        clip_high: distance of the upper bound from 1.

    Returns:
        as :func:`clipped_surrogate`.
    """
    mean = spread_to_tokens(segment_mean(logprobs.detach() - old_logprobs, offsets), offsets)
    ratio = _ratio(mean + logprobs - logprobs.detach())
    return _clipped(ratio, advantages, clip_low, clip_high, 0.0)


def cispo(
    logprobs: Float[Tensor, " S"],
    old_logprobs: Float[Tensor, " S"],
    advantages: Float[Tensor, " S"],
    *,
    clip_low: float = 1.0,
    clip_high: float = 0.2,
) -> tuple[Float[Tensor, " S"], Bool[Tensor, " S"]]:
    r"""CISPO: clip the importance weight, never the gradient.

    :math:`-\mathrm{sg}[\mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high})] A \log p`
    (MiniMax-M1, arXiv 2506.13585, equations 4 and 5; veRL's ``cispo``). With ``clip_low=1`` there
    is no lower bound, as in the paper and in TRL's ``loss_type="cispo"``, whose ``epsilon_high`` is
    the upper bound itself: our ``1 + clip_high``.

    Args:
        logprobs: [S] of the policy, with gradient.
        old_logprobs: [S] of the policy that drew the tokens.
        advantages: [S] of each token's completion.
        clip_low: distance of the lower bound from 1.
        clip_high: distance of the upper bound from 1.

    Returns:
        [S] losses, and [S] whether the weight was clipped (the gradient stays).
    """
    ratio = _ratio(logprobs.detach() - old_logprobs)
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantages * logprobs, weight != ratio


def truncated_importance(
    old_logprobs: Float[Tensor, " S"], drawn_logprobs: Float[Tensor, " S"], cap: float
) -> Float[Tensor, " S"]:
    r"""Weights that correct for rollouts drawn by another engine or policy version.

    :math:`\min(p_{old} / p_{drawn}, C)`, a factor on the loss (truncated importance sampling,
    Ionides 2008; "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", Yao et
    al. 2025; veRL's ``rollout_is="token"`` with ``rollout_is_threshold``, once
    ``tis_imp_ratio_cap``; TRL's ``token_truncate`` with ``vllm_importance_sampling_clip_max``, once
    ``vllm_importance_sampling_cap``).

    Args:
        old_logprobs: [S] of the policy before this step's updates.
        drawn_logprobs: [S] under which the tokens were drawn.
        cap: C.

    Returns:
        [S] weights in [0, C], without gradient.
    """
    return _ratio(old_logprobs - drawn_logprobs).detach().clamp(max=cap)


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _clipped(
    ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float
) -> tuple[Tensor, Tensor]:
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    losses, cut = torch.maximum(plain, clipped), clipped > plain
    if dual_clip:
        bound = -advantages * dual_clip
        over = (advantages < 0) & (losses > bound)
        losses, cut = torch.where(over, bound, losses), cut | over
    return losses, cut.detach()
