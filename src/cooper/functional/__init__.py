"""Pure tensor functions on flat tokens and offsets: what the papers' formulas say, and no more.

Shapes follow the legend of :mod:`cooper.types`: N rollouts, S tokens in all, K pairs.
"""

from cooper.functional.advantages import group_advantages
from cooper.functional.aggregation import aggregation_weights
from cooper.functional.kl import kl_penalty
from cooper.functional.logprobs import entropy_from_logits, selective_log_softmax
from cooper.functional.policy_losses import clipped_surrogate
from cooper.functional.ragged import pad_sequences, spread_to_tokens
from cooper.functional.reward_losses import binary_cross_entropy, contrastive_loss

__all__ = [
    "aggregation_weights",
    "binary_cross_entropy",
    "clipped_surrogate",
    "contrastive_loss",
    "entropy_from_logits",
    "group_advantages",
    "kl_penalty",
    "pad_sequences",
    "selective_log_softmax",
    "spread_to_tokens",
]
