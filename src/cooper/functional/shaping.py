"""What is added to a completion's reward besides its quality."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def overlong_penalty(
    lengths: Int[Tensor, " N"], max_tokens: int, buffer: int
) -> Float[Tensor, " N"]:
    r"""DAPO's soft punishment of completions that come near the length limit.

    0 up to ``max_tokens - buffer`` tokens, then falling linearly to -1 at ``max_tokens`` (DAPO,
    arXiv 2503.14476, equation 13; veRL's ``overlong_buffer_cfg``, TRL's
    ``get_soft_overlong_punishment``).

    Args:
        lengths: [N] tokens of each completion.
        max_tokens: the limit.
        buffer: width of the fall, in tokens, at least 1.

    Returns:
        [N] float32 in [-1, 0].
    """
    return ((max_tokens - buffer - lengths).float() / buffer).clamp(-1, 0)
