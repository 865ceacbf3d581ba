"""The reference-based reward model: question, reference and completion in, one logit out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cooper.functional import pad_sequences
from cooper.models.loading import pad_id


@dataclass(frozen=True)
class RewardTemplate:
    """The text that the reward model reads (Cooper, arXiv 2508.05613, and its published code).

    Args:
        text: with the fields {question}, {reference} and {completion}.
        max_characters: a reference or completion longer than this is cut in its middle; the
            answer usually stands at the end, so more of the end is kept. 0: never.
        head_characters: how many characters stay from the front.
        tail_characters: how many stay from the end.
    """

    text: str = (
        "<question>{question}</question>\n"
        "<reference_answer>{reference}</reference_answer>\n"
        "<completion>{completion}</completion>"
    )
    max_characters: int = 1500
    head_characters: int = 500
    tail_characters: int = 1000

    def __post_init__(self) -> None:
        """Check the lengths.

        Raises:
            ValueError: cutting would make a text longer.
        """
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

    def render(self, question: str, reference: str, completion: str) -> str:
        """Fill the template, with long references and completions cut."""
        # One pass over the template, so that braces or field names inside a completion stay text.
        values = {
            "{question}": question,
            "{reference}": self._cut(reference),
            "{completion}": self._cut(completion),
        }
        out, rest = [], self.text
        while rest:
            found = [(rest.find(name), name) for name in values if name in rest]
            if not found:
                break
            at, name = min(found)
            out += [rest[:at], values[name]]
            rest = rest[at + len(name) :]
        return "".join([*out, rest])


class RewardModel(nn.Module):
    """A one-label sequence classifier with its own tokenizer.

    Texts are rendered and tokenised here, since the policy's token ids mean nothing to another
    tokenizer. The logit is the head's at the last real token of each row, found by the attention
    mask: transformers looks for the padding id instead, which goes wrong where padding and
    end-of-sequence share an id.

    Args:
        model: ``AutoModelForSequenceClassification`` with ``num_labels=1``.
        tokenizer: the model's own.
        template: how question, reference and completion become one text.
        batch_tokens: padded tokens of one scoring forward.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: RewardTemplate | None = None,
        batch_tokens: int = 16384,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.template = template or RewardTemplate()
        self.batch_tokens = batch_tokens

    def tokenise(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> list[list[int]]:
        """Render and tokenise N triples: [N] lists of ids."""
        if not completions:
            return []
        texts = [
            self.template.render(q, r, c)
            for q, r, c in zip(questions, references, completions, strict=True)
        ]
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits of tokenised rows, with gradient: [N] float32."""
        if not rows:
            return torch.zeros(0, device=self.model.device)
        device = self.model.device
        ids, mask = pad_sequences(rows, pad_id(self.tokenizer), device=device)
        backbone = getattr(self.model, self.model.base_model_prefix)
        hidden = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = mask.sum(1) - 1
        pooled = hidden[torch.arange(len(rows), device=device), last]
        head = cast(nn.Module, self.model.score)
        return head(pooled).squeeze(-1).float()

    def batches(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Cut rows, sorted by length, into batches of at most `batch_tokens` padded tokens."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        batches: list[list[int]] = []
        for index in order:
            longest = len(rows[index])
            if not batches or (len(batches[-1]) + 1) * longest > self.batch_tokens:
                batches.append([])
            batches[-1].append(index)
        return batches

    @torch.no_grad()
    def score(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> Tensor:
        """Logits of N triples without gradient, in evaluation mode: [N] float32 on the CPU."""
        rows = self.tokenise(questions, references, completions)
        logits = torch.zeros(len(rows))
        training = self.model.training
        self.model.eval()
        for batch in self.batches(rows):
            logits[torch.tensor(batch)] = self.forward([rows[i] for i in batch]).cpu()
        self.model.train(training)
        return logits
