"""What a language model is asked for a wrong completion."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from cooper.types import Problem

T = TypeVar("T")

PROMPT = """\
Below are a question, its correct answer and a correct solution.

Question:
{question}

Correct answer: {reference}

Correct solution:
{completion}

Rewrite the solution so that it makes one plausible mistake, such as a wrong step of reasoning, a \
slip in a calculation or a misread condition, and carries it through to a wrong final answer. Keep \
the style, the length and the form of the final answer. Do not point the mistake out. Write only \
the rewritten solution."""

_FIELDS = ("question", "reference", "completion")
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")
_GAP = "\n...\n"  # where the middle of a long completion was


def filled(prompt: str, problem: Problem, completion: str) -> str:
    """Put a problem and its right completion into a prompt; other braces stay as they are."""
    values = {
        "question": problem.question,
        "reference": problem.reference,
        "completion": completion,
    }
    # One pass, so that braces and field names inside the values stay text.
    text = _FIELD.sub(lambda field: values[field[1]], prompt)
    # A tokenizer and a server refuse half of a surrogate pair, which JSON can bring.
    return text.encode("utf-8", "replace").decode("utf-8")


def shortened(text: str, kept: int) -> str:
    """The first third and the last two of `kept` characters: the answer stands at the end."""
    head = kept // 3
    return text[:head] + _GAP + text[len(text) - (kept - head) :]


def longest_that_fits(text: str, make: Callable[[str], T], fits: Callable[[T], bool]) -> T | None:
    """What is made of a text, its middle left out where the whole does not fit.

    Args:
        text: the right completion.
        make: makes something of a text.
        fits: whether it can be read; what is made of a shorter text fits rather.

    Returns:
        that of the longest text that fits; None: nothing fits.
    """
    whole = make(text)
    if fits(whole):
        return whole
    best, low, high = None, 0, len(text) - 1  # characters of the completion that stay
    while low <= high:
        kept = (low + high) // 2
        made = make(shortened(text, kept))
        if fits(made):
            best, low = made, kept + 1
        else:
            high = kept - 1
    return best


def check_settings(prompt: str, temperature: float, top_p: float, max_new_tokens: int) -> None:
    """Check what every assistant is told.

    Raises:
        ValueError: a setting is out of its range, or the prompt names another field or says
            nothing of the problem.
    """
    _check_prompt(prompt)
    if not temperature > 0:
        raise ValueError(
            f"negatives.temperature={temperature}: greedy rewrites of a completion are all "
            "alike, so that asking again (pairs.tries) is no use; give a value above 0"
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"negatives.top_p={top_p}: must lie in (0, 1]; 1 switches it off")
    if max_new_tokens < 1:
        raise ValueError(f"negatives.max_new_tokens={max_new_tokens}: give 1 or more")


def _check_prompt(prompt: str) -> None:
    """Check the fields of a prompt.

    Raises:
        ValueError: one that there is not, or none that tells the requests apart.
    """
    names = _FIELD.findall(prompt)
    shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
    for name in names:
        if name not in _FIELDS:
            raise ValueError(
                f"negatives.prompt={shown!r}: has no field {{{name}}}; use {{question}}, "
                "{reference}, {completion}"
            )
    if not {"question", "completion"} & set(names):
        raise ValueError(
            f"negatives.prompt={shown!r}: says nothing of the problem; put {{question}} or "
            "{completion} into it"
        )
