"""Stop strings: texts with which a completion ends, wherever they lie among its tokens."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from cooper.types import SamplingParams

# No token: transformers' criteria let nothing match an id beyond the vocabulary.
OUTSIDE = 2**31 - 1


class StopStrings:
    """Tells which sequences have just written a stop string.

    What counts is :class:`transformers.StopStringCriteria`'s: the text of the last tokens, also
    where a token begins before the string or ends behind it.

    Args:
        tokenizer: of the policy.
        strings: texts that end a completion.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: tuple[str, ...]) -> None:
        self._criteria = StopStringCriteria(tokenizer, list(strings))
        self.width = self._criteria.maximum_token_len  # tokens that decide

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, params: SamplingParams) -> StopStrings | None:
        """Those of some sampling; None where there are none."""
        return cls(tokenizer, params.stop) if params.stop else None

    def __call__(self, ids: Tensor) -> Tensor:
        """[n] whether a stop string overlaps the last token.

        Args:
            ids: [n, T] the last tokens of completions; OUTSIDE in front of short ones.
        """
        return cast(Tensor, self._criteria(cast(torch.LongTensor, ids), cast(Any, None)))

    def last_tokens(self, ids: Tensor, rows: Tensor, last: Tensor) -> Tensor:
        """[n, width] the tokens that decide for some completions.

        Args:
            ids: [N, T] completions.
            rows: [n] which ones.
            last: [n] place of the last token of each.
        """
        columns = last[:, None] + torch.arange(1 - self.width, 1, device=ids.device)
        found = ids[rows[:, None], columns.clamp(min=0)]
        return found.masked_fill(columns < 0, OUTSIDE)
