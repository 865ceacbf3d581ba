"""Wrong completions made from the chosen one by editing its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch

from cooper.checks import one_of
from cooper.negatives.base import NegativeGenerator
from cooper.rng import draw, pick
from cooper.types import Negative, NegativeRequest
from cooper.verifiers.extraction import extract_answer

Edit = Literal["answer", "step"]

# Longer runs of digits are no numbers that a step would hold, and int() refuses some of them.
_NUMBER = re.compile(r"(?<!\d)\d{1,30}(?!\d)(?:\.\d+)?")
# Answers without a number: the other word of a pair is the likeliest mistake.
_OPPOSITES = {
    "yes": "no", "no": "yes", "true": "false", "false": "true",
    "even": "odd", "odd": "even", "positive": "negative", "negative": "positive",
    "increasing": "decreasing", "decreasing": "increasing",
}  # fmt: skip
_SHIFTS = (-10, -2, -1, 1, 2, 10)


def _other_number(text: str, rng: torch.Generator) -> str:
    """Give a number near this one, written alike (decimals kept, never below zero)."""
    whole, _, decimals = text.partition(".")
    value = int(whole)
    shifted = value + pick([s for s in _SHIFTS if value + s >= 0], rng)
    return f"{shifted}.{decimals}" if decimals else str(shifted)


def _edit_answer(answer: str, rng: torch.Generator) -> str | None:
    """Give a wrong answer of the same form, or None when there is nothing to edit."""
    numbers = list(_NUMBER.finditer(answer))
    if numbers:
        hit = pick(numbers, rng)
        return answer[: hit.start()] + _other_number(hit.group(), rng) + answer[hit.end() :]
    word = answer.strip()
    if word.lower() in _OPPOSITES:
        other = _OPPOSITES[word.lower()]
        return other.capitalize() if word[:1].isupper() else other
    if len(word) == 1 and word.upper() in "ABCDE":  # a choice letter
        letters = [c for c in ("abcde" if word.islower() else "ABCDE") if c != word]
        return pick(letters, rng)
    return None


class PerturbNegatives(NegativeGenerator):
    """Edits the chosen completion, so that right and wrong differ in little else.

    Args:
        edits: kinds to draw from. "answer" changes the final answer only; "step" changes one
            number of the working and every later mention of it, and the answer too where the
            change does not reach it.
    """

    def __init__(self, edits: Sequence[Edit] = ("answer", "step")) -> None:
        for edit in edits:
            one_of("negatives.edits", edit, ("answer", "step"))
        if not edits:
            raise ValueError("negatives.edits=[]: name at least one of answer, step")
        self.edits = tuple(edits)

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """See :class:`~cooper.negatives.base.NegativeGenerator`."""
        negatives = []
        for request in requests:
            edit = pick(self.edits, generator)
            text = self._perturb(request.chosen, edit, generator)
            negatives.append(Negative(text, f"perturb:{edit}"))
        return negatives

    def _perturb(self, text: str, edit: Edit, rng: torch.Generator) -> str | None:
        found = extract_answer(text)
        if found is None:
            return None
        answer, (start, end) = found.text, found.span
        working, tail = text[:start], text[end:]
        if edit == "step":
            # Numbers of the working that come after its first third: the question's own numbers
            # tend to stand first, and a changed one would be a misreading, not a wrong step.
            numbers = list(_NUMBER.finditer(working))
            numbers = numbers[len(numbers) // 3 :]
            if not numbers:
                return None
            hit = numbers[draw(rng, len(numbers))]
            new = _other_number(hit.group(), rng)
            later = re.compile(rf"(?<![\d.]){re.escape(hit.group())}(?![\d]|\.\d)")
            working = working[: hit.start()] + new + later.sub(new, working[hit.end() :])
            changed = later.sub(new, answer)
            if changed != answer:
                return working + changed + tail
        new_answer = _edit_answer(answer, rng)
        return None if new_answer is None else working + new_answer + tail
