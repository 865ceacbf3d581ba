r"""The final answer that a data set's reference holds."""

from __future__ import annotations

import re

from cooper.verifiers.extraction import last_boxes

# The last line of a GSM8K solution: "#### 1,234". Headings of Markdown stand further up.
_GSM8K = re.compile(r"^####[ \t]*(\S.*)\Z", re.MULTILINE)


def final_answer(text: str) -> str:
    r"""Find the final answer in a reference, which may be a worked solution.

    In this order: what stands behind ``####`` in the last line (GSM8K), the boxes that stand
    together at the end (``\boxed{1} and \boxed{2}``; MATH), else the whole text. A comma or
    semicolon behind the end goes (Big-Math has some). Thousands separators, units and dollar signs
    stay: the verifier reads them, and what the reference says is not ours to change.

    Args:
        text: the reference as the data set gives it.

    Returns:
        the answer without surrounding white space; never empty where `text` is not.
    """
    text = text.strip()
    return _cut(text).rstrip(" ,;") or text


def _cut(text: str) -> str:
    if match := _GSM8K.search(text):
        return match.group(1).strip()
    boxes = [box.text for box in last_boxes(text) if box.text]
    return ", ".join(boxes) or text
