r"""Known ways to please a reward model without solving the problem, told from the text alone.

A share of these in a step's rollouts says how they look, not that anybody was fooled: an honest
completion may correct itself (two answers), and an easy problem needs no work. What tells is a
share that rises. Every test takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from cooper.verifiers.extraction import (
    REGION_CHARS,
    all_boxes,
    extract_answer,
    stated,
    unwrap,
)

# A policy that loops goes on until it is cut off, so the end is where it shows.
_REPETITION_CHARS = 2_000
_PIECE = 12  # characters; shorter ones come back in honest arithmetic too
_FEWEST_PIECES = 24

_PASTED_CHARS = 80
_PASTED_WORDS = 6  # "Therefore, the final answer is: ..."
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORK = re.compile(r"[0-9=]")
_WORD = re.compile(r"[^\W\d_]+")
_SPACE = re.compile(r"\s+")


def repetition(completion: str, reference: str = "") -> bool:
    """Whether more than half of the pieces of its end stood before in it.

    The end is the last 2000 characters, a piece is 12 characters from any place on. Said three
    times, a sentence counts; said twice, it does not.
    """
    text = completion[-_REPETITION_CHARS:]
    pieces = len(text) - _PIECE + 1
    if pieces < _FEWEST_PIECES:
        return False
    return 2 * len({text[i : i + _PIECE] for i in range(pieces)}) < pieces


def several_answers(completion: str, reference: str = "") -> bool:
    """Whether it gives different final answers: in boxes, or where it has none, in words.

    A reference that consists of several values makes honest completions do so.
    """
    text = completion[-REGION_CHARS:]
    if boxes := all_boxes(text):
        return len({_plain(box.text) for box in boxes if box.text}) > 1
    last = stated(text)
    before = stated(text[: last.span[0]]) if last else None
    return last is not None and before is not None and _plain(last.text) != _plain(before.text)


def no_answer(completion: str, reference: str = "") -> bool:
    """Whether no final answer can be found in it, in a box or in words."""
    return extract_answer(completion) is None


def reference_pasted(completion: str, reference: str) -> bool:
    """Whether it is the reference and hardly anything else: an answer without any work.

    Beside the reference, however often it stands there, a box and up to six words may be there
    ("The final answer is"), but no digit and no equation.
    """
    wanted = _plain(reference)
    if not wanted or len(completion) > 4 * len(reference) + _PASTED_CHARS:
        return False
    found = extract_answer(completion)
    answer, rest = completion, ""
    if found is not None:
        start, end = found.span
        answer, rest = found.text, f"{completion[:start]} {completion[end:]}"
    rest = _COMMAND.sub(" ", rest.replace(reference, " "))
    if _WORK.search(rest) or len(_WORD.findall(rest)) > _PASTED_WORDS:
        return False
    return _plain(answer) == wanted


TRICKS: dict[str, Callable[[str, str], bool]] = {
    "repetition": repetition,
    "several_answers": several_answers,
    "no_answer": no_answer,
    "reference_pasted": reference_pasted,
}


def trick_shares(completions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Share of each trick, as ``tricks/<name>``; empty without completions.

    Args:
        completions: [N] texts.
        references: [N] reference answers.
    """
    if not completions:
        return {}
    return {
        f"tricks/{name}": sum(map(test, completions, references)) / len(completions)
        for name, test in TRICKS.items()
    }


def _plain(text: str) -> str:
    return _SPACE.sub("", unwrap(text)).casefold()
