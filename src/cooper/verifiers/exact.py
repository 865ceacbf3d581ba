"""Text equality: for answers that are names, letters or words."""

from __future__ import annotations

from collections.abc import Sequence

from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier, check_lengths
from cooper.verifiers.extraction import MAX_ANSWER_CHARS, boxed, extract_answer, unwrap

__all__ = ["ExactVerifier"]


class ExactVerifier(Verifier):
    r"""Compares answers as text.

    Before the comparison both sides lose surrounding white space, a closing full stop and
    surrounding ``$...$``, ``\(...\)`` or ``**...**``; inner white space becomes single spaces.
    Nothing else is altered: "1/2" is not "0.5". Runs in-process, in linear time.
    """

    def __init__(self, ignore_case: bool = False, allow_stated: bool = True) -> None:
        r"""Set up.

        Args:
            ignore_case: whether "Paris" equals "paris" (Unicode case folding).
            allow_stated: whether "The answer is X" counts where no ``\boxed{X}`` stands.
        """
        self.ignore_case = ignore_case
        self.allow_stated = allow_stated

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """Verify a batch; see :meth:`Verifier.verify`."""
        check_lengths(completions, references, questions)
        return [self._one(c, r) for c, r in zip(completions, references, strict=True)]

    def _one(self, completion: str, reference: str) -> Verdict:
        gold = self._normal(reference)
        if not gold:
            return Verdict(Status.UNDECIDED, "the reference is empty")
        found = extract_answer(completion, self.allow_stated)
        if found is None:
            return Verdict(Status.INCORRECT, "no answer")
        if len(found.text) > MAX_ANSWER_CHARS + len(reference):
            return Verdict(Status.INCORRECT, "the answer is too long", found.text, found.span)
        same = self._normal(found.text) == gold
        return Verdict(
            Status.CORRECT if same else Status.INCORRECT,
            "same text" if same else "other text",
            found.text,
            found.span,
        )

    def _normal(self, text: str) -> str:
        box = boxed(text)
        if box is not None:
            text = box.text
        text = " ".join(unwrap(text).split())
        return text.casefold() if self.ignore_case else text
