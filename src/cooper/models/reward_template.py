"""The text that the reward model reads, and what becomes of texts that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cooper.checks import at_least, at_most

FIELDS = ("question", "reference", "completion")


@dataclass(frozen=True)
class Piece:
    """A part of a rendered template: the template's own text, or a field's."""

    text: str
    field: str = ""  # empty: the template's own


@dataclass(frozen=True)
class RewardTemplate:
    """The text that the reward model reads (Cooper, arXiv 2508.05613, and its published code).

    Long texts lose their middle: the answer usually stands at the end, so more of the end is kept.
    The published code cuts references and completions by characters, which is the default here.
    By tokens (``max_tokens``) is a deviation: it bounds what the model computes, for any script
    and for the question too. Both may be on; characters are cut first.

    Args:
        text: with the fields {question}, {reference} and {completion}.
        max_characters: a reference or completion longer than this is cut. 0: never.
        head_characters: how many characters stay from the front.
        tail_characters: how many stay from the end.
        max_tokens: longest row. Beyond it question and reference are cut to a quarter each of what
            the template's own tokens leave, the completion to the rest; what one does not need
            goes to the others. 0: no limit.
        head_share: share of a field's kept tokens that stays from the front.
    """

    text: str = (
        "<question>{question}</question>\n"
        "<reference_answer>{reference}</reference_answer>\n"
        "<completion>{completion}</completion>"
    )
    max_characters: int = 1500
    head_characters: int = 500
    tail_characters: int = 1000
    max_tokens: int = 0
    head_share: float = 0.33

    def __post_init__(self) -> None:
        """Check the lengths.

        Raises:
            ValueError: cutting would make a text longer.
        """
        at_least(
            "reward_template", self, max_characters=0, head_characters=0, tail_characters=0,
            max_tokens=0, head_share=0,
        )  # fmt: skip
        at_most("reward_template", self, head_share=1)
        if (
            self.max_characters
            and self.head_characters + self.tail_characters > self.max_characters
        ):
            raise ValueError(
                f"head_characters={self.head_characters} and tail_characters="
                f"{self.tail_characters} are more than max_characters={self.max_characters}"
            )

    def _cut(self, text: str) -> str:
        if not self.max_characters or len(text) <= self.max_characters:
            return text
        return text[: self.head_characters] + text[len(text) - self.tail_characters :]

    def kept_at(self, length: int, index: int) -> int | None:
        """Where a character of a text of some length stands after the cut; None: it is gone."""
        if not self.max_characters or length <= self.max_characters or index < self.head_characters:
            return index
        from_end = length - index
        if from_end > self.tail_characters:
            return None
        return self.head_characters + self.tail_characters - from_end

    def pieces(self, question: str, reference: str, completion: str) -> list[Piece]:
        """Fill the template, long references and completions cut: its pieces in order."""
        # One pass over the template, so that braces or field names inside a completion stay text.
        values = {
            "question": question,
            "reference": self._cut(reference),
            "completion": self._cut(completion),
        }
        pieces, rest = [], self.text
        while rest:
            found = [(rest.find(f"{{{name}}}"), name) for name in FIELDS if f"{{{name}}}" in rest]
            if not found:
                break
            at, name = min(found)
            pieces += [Piece(rest[:at]), Piece(values[name], name)]
            rest = rest[at + len(name) + 2 :]
        return [*pieces, Piece(rest)]

    def render(self, question: str, reference: str, completion: str) -> str:
        """Fill the template, with long references and completions cut."""
        return "".join(piece.text for piece in self.pieces(question, reference, completion))

    def spared(self, fields: Sequence[tuple[str, int, int]], total: int) -> list[int]:
        """Which tokens of a row stay under ``max_tokens``.

        Args:
            fields: name, first token and the one behind the last of each field's tokens, in order.
            total: tokens of the row.

        Returns:
            the indices that stay, ascending; the template's own are always among them.
        """
        if not self.max_tokens or total <= self.max_tokens:
            return list(range(total))
        lengths = [stop - start for _, start, stop in fields]
        budget = max(self.max_tokens - (total - sum(lengths)), 0)
        kept = [
            min(n, budget // 4) if name != "completion" else 0
            for (name, _, _), n in zip(fields, lengths, strict=True)
        ]
        # What is left goes to the completion, then to whatever is still cut.
        order = sorted(range(len(fields)), key=lambda i: fields[i][0] != "completion")
        for index in order:
            kept[index] += min(lengths[index] - kept[index], max(budget - sum(kept), 0))
        gone: set[int] = set()
        for (_, start, stop), keep in zip(fields, kept, strict=True):
            head = round(keep * self.head_share)
            gone.update(range(start + head, stop - (keep - head)))
        return [index for index in range(total) if index not in gone]
