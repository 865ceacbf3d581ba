"""Estimators of the divergence from the reference policy, per token."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]

# veRL clamps both, so that one token on which the models fall apart cannot overflow exp().
_MAX_LOG_RATIO = 20.0
_MAX_K3 = 10.0


def kl_penalty(
    logprobs: Float[Tensor, " S"],
    ref_logprobs: Float[Tensor, " S"],
    estimator: KLEstimator = "k3",
) -> Float[Tensor, " S"]:
    r"""Per-token estimate of KL(policy || reference) from tokens drawn by the policy.

    With :math:`d = \log p_{ref} - \log p`: k1 :math:`= -d`, k2 :math:`= d^2 / 2`,
    k3 :math:`= e^d - d - 1` (Schulman, "Approximating KL divergence", 2020; k3 is GRPO's, arXiv
    2402.03300, equation 4). Clamped as in veRL's ``low_var_kl``: d for k3 to +-20, k3 to +-10.

    Args:
        logprobs: [S] of the policy, with gradient.
        ref_logprobs: [S] of the reference, without.
        estimator: "k1", "k2" or "k3".

    Returns:
        [S] estimates; k2 and k3 are never negative.

    Raises:
        ValueError: unknown estimator.
    """
    d = ref_logprobs - logprobs
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        d = d.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        return (d.exp() - d - 1).clamp(-_MAX_K3, _MAX_K3)
    raise ValueError(f"kl_estimator={estimator!r}: one of 'k1', 'k2', 'k3'")
