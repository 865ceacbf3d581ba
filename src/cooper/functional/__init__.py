"""Pure tensor functions on flat tokens and offsets: what the papers' formulas say, and no more.

Shapes follow the legend of :mod:`cooper.types`: N rollouts, S tokens in all, K pairs.
"""

from cooper.functional.advantages import group_advantages, leave_one_out_advantages, whiten
from cooper.functional.aggregation import aggregation_weights
from cooper.functional.kl import kl_penalty
from cooper.functional.logprobs import (
    entropy_from_logits,
    selective_log_softmax,
    selective_log_softmax_and_entropy,
)
from cooper.functional.policy_losses import (
    cispo,
    clipped_surrogate,
    sequence_clipped_surrogate,
    truncated_importance,
)
from cooper.functional.ragged import (
    offsets_from,
    pad_sequences,
    segment_mean,
    segment_sum,
    spread_to_tokens,
    sums_to_go,
    token_positions,
)
from cooper.functional.reward_losses import (
    binary_cross_entropy,
    centring_penalty,
    contrastive_loss,
)
from cooper.functional.shaping import overlong_penalty

__all__ = [
    "aggregation_weights",
    "binary_cross_entropy",
    "centring_penalty",
    "cispo",
    "clipped_surrogate",
    "contrastive_loss",
    "entropy_from_logits",
    "group_advantages",
    "kl_penalty",
    "leave_one_out_advantages",
    "offsets_from",
    "overlong_penalty",
    "pad_sequences",
    "segment_mean",
    "segment_sum",
    "selective_log_softmax",
    "selective_log_softmax_and_entropy",
    "sequence_clipped_surrogate",
    "spread_to_tokens",
    "sums_to_go",
    "token_positions",
    "truncated_importance",
    "whiten",
]
