"""From a loss per token to the loss of a batch."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from cooper.functional.ragged import spread_to_tokens

Aggregation = Literal["token_mean", "sequence_mean", "constant"]


def aggregation_weights(
    offsets: Int[Tensor, " N_plus_1"],
    keep: Bool[Tensor, " N"],
    mode: Aggregation = "token_mean",
    *,
    max_tokens: int = 0,
) -> Float[Tensor, " S"]:
    r"""The weight of each token, so that ``(weights * losses).sum()`` is the batch's loss.

    Weights belong to the whole mini-batch: its micro-batches only add up their shares, so that
    accumulation is exact however the rows are cut.

    * ``token_mean``: every token counts alike, :math:`w = 1 / \sum_i T_i` (DAPO, arXiv 2503.14476,
      equation 8; veRL's default).
    * ``sequence_mean``: every completion counts alike, :math:`w_t = 1 / (N T_i)` (GRPO, arXiv
      2402.03300, equation 3).
    * ``constant``: every token counts alike whatever the batch's lengths are,
      :math:`w = 1 / (N L)`, L the length limit (Dr.GRPO, arXiv 2503.20783, section 3.2; TRL's
      ``dr_grpo``, and veRL's ``seq-mean-token-sum-norm`` with ``loss_scale_factor`` L).

    N counts the completions kept. (TRL's ``grpo`` and ``dr_grpo`` count those left out as well.)

    Args:
        offsets: [N + 1] completion i owns tokens ``offsets[i]:offsets[i + 1]``.
        keep: [N] completions that count (truncated ones can be left out).
        mode: one of the above.
        max_tokens: the length limit, for ``constant``.

    Returns:
        [S] float32 weights. They sum to 1 (``constant``: to at most 1), or to 0 when nothing is
        kept.

    Raises:
        ValueError: unknown mode, or no length limit for ``constant``.
    """
    lengths = offsets[1:] - offsets[:-1]
    if mode == "token_mean":
        per_sequence = keep.float() / (lengths * keep).sum().clamp(min=1)
    elif mode == "sequence_mean":
        per_sequence = keep.float() / (lengths.clamp(min=1) * keep.sum().clamp(min=1))
    elif mode == "constant":
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: aggregation='constant' needs the limit")
        per_sequence = keep.float() / (max_tokens * keep.sum().clamp(min=1))
    else:
        raise ValueError(f"aggregation={mode!r}: one of 'token_mean', 'sequence_mean', 'constant'")
    return spread_to_tokens(per_sequence, offsets)
