"""Wrong completions made from the chosen one by leaving off its end."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import torch

from cooper.negatives.base import NegativeGenerator
from cooper.rng import pick
from cooper.types import Negative, NegativeRequest
from cooper.verifiers.extraction import extract_answer

_WORD_END = re.compile(r"(?<=\S)(?=\s)")
# Inside a LaTeX command or a number.
_INSIDE = re.compile(r"[\\A-Za-z0-9][A-Za-z0-9]")
# How often a beginning may turn out to state the answer too before it is given up.
_TRIES = 8


class TruncateNegatives(NegativeGenerator):
    """Cuts the chosen completion at a random word before its final answer.

    Truncated answers and lone openers fool judge models (arXiv 2507.08794). A plain completion
    without an answer is INCORRECT, so these are negatives without an assistant.

    Args:
        min_share: the least that stays, as a share of the text before the answer, in [0, 1).
            0: a lone opening word may come too.
    """

    def __init__(self, min_share: float = 0.0) -> None:
        if not 0 <= min_share < 1:
            raise ValueError(
                f"negatives.min_share={min_share}: must lie in [0, 1), since the cut comes before "
                "the answer; lower it"
            )
        self.min_share = min_share

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """See :class:`~cooper.negatives.base.NegativeGenerator`."""
        return [Negative(self._cut(request, generator), "truncate") for request in requests]

    def _cut(self, request: NegativeRequest, rng: torch.Generator) -> str | None:
        text, found = request.chosen, _answer(request)
        if found is None:
            return None
        answer, end = found
        least = self.min_share * end
        for _ in range(_TRIES):
            places = [place for place in _places(text, end) if place >= least]
            if not places:
                return None
            beginning = text[: pick(places, rng)]
            # "The answer is 7, for 3 + 4 = 7. So \boxed{7}": an answer may be stated twice. A line
            # of plain working counts as a stated answer too and is none, unless it is this one.
            earlier = extract_answer(beginning)
            if earlier is None:
                return beginning
            if not beginning[: earlier.span[0]].strip() and earlier.text != answer:
                return beginning
            end = earlier.span[0]
        return None


def _answer(request: NegativeRequest) -> tuple[str, int] | None:
    """The chosen completion's answer and where it begins, as the verifier saw it if it says so."""
    for text, verdict in zip(request.group, request.verdicts, strict=True):
        if text == request.chosen and verdict.correct and verdict.span is not None:
            start, end = verdict.span
            return text[start:end], start
    found = extract_answer(request.chosen)
    return None if found is None else (found.text, found.span[0])


def _places(text: str, end: int) -> list[int]:
    """Where `text` may be cut before `end`: behind a word.

    In a script without spaces behind any character, but neither between a letter and its accent
    nor inside a command or a number.
    """
    words = [match.start() for match in _WORD_END.finditer(text, 0, end)]
    if words or not text[:end].strip() or text[:end].isascii():
        return words
    return [
        at
        for at in range(1, end)
        if not unicodedata.combining(text[at]) and not _INSIDE.match(text, at - 1)
    ]
