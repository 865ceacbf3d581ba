"""Multiple choice: which option's letter a completion ends with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier, check_lengths
from cooper.verifiers.conclusion import TAIL_CHARS
from cooper.verifiers.extraction import REGION_CHARS, Extracted, boxed, stated
from cooper.verifiers.forms import Form

__all__ = ["ChoiceVerifier", "stated_option"]

# "Choice_B", "option (B)", "the answer is B", "(B)", in the last lines; the last one counts.
_MENTION = re.compile(
    r"(?:\b(?:choice|option)s?[ _:]{1,3}\**\(?|(?<![A-Za-z0-9])\()"
    r"(?P<letter>[A-J])\b(?P<after>.{0,12})",
    re.IGNORECASE,
)
_ALONE = re.compile(r"\s*\**\(?(?P<letter>[A-J])\)?[.*]*\s*")
_SEVERAL = re.compile(r"\)?\s*(?:,|and|or|through|to|-|/)\s*\(?[A-J]\b")
_NEGATED = re.compile(r"\b(?:not|n't|neither|nor|wrong|incorrect|eliminated?)\b", re.IGNORECASE)


def stated_option(text: str) -> Extracted | None:
    """Find the letter of the option that a completion ends with.

    In a box; after "the answer is"; or the last "choice B", "option B", "(B)" of its last lines,
    unless other letters or a "not" stand beside it.

    Args:
        text: a completion.

    Returns:
        The letter, as it stands there, or None.
    """
    region = text[-REGION_CHARS:]
    cut = len(text) - len(region)
    box = boxed(region)
    for found in (box, None if box else stated(region)):
        if found is not None and (letter := Form(found.text[:400]).option):
            at = cut + found.span[0] + found.text.index(letter)
            return Extracted(letter, (at, at + 1))
    if box is not None:
        return None  # it holds no letter, and is the answer all the same
    shift = max(0, len(text) - TAIL_CHARS)
    if alone := _ALONE.fullmatch(text, shift):
        return _letter(text, alone)
    for line in reversed(list(re.finditer(r"[^\n]+", text[shift:]))[-3:]):
        mentions = list(_MENTION.finditer(text, shift + line.start(), shift + line.end()))
        if not mentions:
            continue
        last = mentions[-1]
        before = text[max(shift + line.start(), last.start() - 30) : last.start()]
        if _SEVERAL.match(text, last.end("letter")) or _NEGATED.search(before + last["after"]):
            return None
        return _letter(text, last)
    return None


def _letter(text: str, found: re.Match[str]) -> Extracted:
    start, end = found.span("letter")
    return Extracted(text[start:end], (start, end))


class ChoiceVerifier(Verifier):
    r"""Compares the letters of multiple-choice options.

    The answer is the letter in the last box, the stated one ("The answer is (B)"), or the last
    option named in the closing lines ("Solution: Choice_B"). References are letters: "B", "(B)",
    "B. 12". Runs in-process, in linear time.
    """

    def __init__(self, letters: str = "ABCDEFGHIJ") -> None:
        """Set up.

        Args:
            letters: the options that there are.

        Raises:
            ValueError: they are no different capital letters from A to J.
        """
        if not letters or len(set(letters)) < len(letters) or set(letters) - set("ABCDEFGHIJ"):
            raise ValueError(f"letters={letters}: give different capital letters from A to J")
        self.letters = letters

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
        box = boxed(reference)
        gold = Form((reference if box is None else box.text)[:400]).option
        if not gold or gold not in self.letters:
            return Verdict(
                Status.UNDECIDED, f"the reference is no option's letter out of {self.letters}"
            )
        found = stated_option(completion)
        if found is None:
            return Verdict(Status.INCORRECT, "no option is named")
        same = found.text.upper() == gold
        return Verdict(
            Status.CORRECT if same else Status.INCORRECT,
            "the same option" if same else "another option",
            found.text,
            found.span,
        )
