"""The reference-based reward model: question, reference and completion in, one logit out."""

from __future__ import annotations

import dataclasses
import json
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cooper.errors import ModelError
from cooper.models.adapted import Adapted
from cooper.models.batching import cut_packed, cut_padded, share_starts
from cooper.models.loading import (
    ADAPTER_CONFIG,
    DType,
    adapter_base,
    check_vocabulary,
    load_causal_lm,
    load_config,
    load_json,
    load_reward_model,
    load_tokenizer,
    pad_id,
)
from cooper.models.packing import can_pack
from cooper.models.reward_heads import HEADS, ImplicitHead, RewardHead, Row, ScalarHead
from cooper.models.reward_template import RewardTemplate
from cooper.models.row_batch import RowBatch, pair_tokens
from cooper.steps import split_steps

# The key of config.json under which a reward model says how it is to be read.
RECORD = "cooper_reward"
RECORD_FILE = f"{RECORD}.json"  # the same beside peft's additions, which have no config.json
_FORMAT = 1


class NoRecord(UserWarning):
    """A reward model that does not say how it is to be read."""


class RewardModel(Adapted):
    """A Hugging Face model with its own tokenizer, a template, and a head that gives one logit.

    Texts are rendered and tokenised here, since the policy's token ids mean nothing to another
    tokenizer. The model's config records template and head, so that wherever it is saved its
    folder says how it is to be read; another template or head is refused, since its scores would
    mean nothing.

    Args:
        model: ``AutoModelForSequenceClassification`` with ``num_labels=1``; for the implicit head
            a causal LM.
        tokenizer: the model's own.
        template: how question, reference and completion become one text; None: the recorded one,
            or the published one.
        batch_tokens: of one scoring forward.
        head: what is read off the backbone; None: the recorded one, or the scalar head.

    Raises:
        ModelError: the model was trained with another template or head, or these two do not fit
            the tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: RewardTemplate | None = None,
        batch_tokens: int = 16384,
        head: RewardHead | None = None,
    ) -> None:
        super().__init__(model, tokenizer)
        name = str(getattr(model.config, "_name_or_path", "") or "reward model")
        self.recorded = getattr(model.config, RECORD, None) is not None
        recorded = recorded_form(model.config, name)
        if recorded is not None:
            refuse_other(recorded, template, head, name)
            template, head = template or recorded[0], head or recorded[1]
        self.template = template or RewardTemplate()
        self.head = head or ScalarHead()
        self.batch_tokens = batch_tokens
        self._check(name)
        setattr(model.config, RECORD, self.record())
        if getattr(model.config, "pad_token_id", None) is None:
            # transformers' own classifiers find a batch's last tokens by it.
            model.config.pad_token_id = pad_id(tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        template: RewardTemplate | None = None,
        head: RewardHead | None = None,
        dtype: DType = "float32",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        batch_tokens: int = 16384,
        key: str = "path",
    ) -> RewardModel:
        """Load a reward model from a folder or the hub, ready to score, on the CPU.

        A one-label classifier without a record of ours is taken with the published template, or
        the one given here, and the scalar head; a warning says so.

        Args:
            path: folder that this library or ``save_pretrained`` wrote, or hub id.
            revision: commit, tag or branch on the hub.
            template: only to insist on one; by default the recorded one.
            head: the same.
            dtype: of the weights.
            attn_implementation: as in transformers.
            trust_remote_code: run code from the model's repository; only where you trust it.
            batch_tokens: of one scoring forward.
            key: the setting's name, for error messages.

        Returns:
            the model in evaluation mode; ``.to("cuda")`` moves it.

        Raises:
            ModelError: it cannot be loaded, or was trained with another template or head.
        """
        path = str(path)
        options: dict[str, Any] = {"attn_implementation": attn_implementation, "dtype": dtype}
        source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = load_config(path, key=key, **source)
        beside = None
        if adapter_base(path, revision=revision, key=key) is not None:
            # peft's form has no config.json of its own.
            beside = load_json(path, RECORD_FILE, revision=revision)
        if beside is not None:
            setattr(config, RECORD, beside)
        recorded = recorded_form(config, path)
        if recorded is None:
            warnings.warn(
                f"{key}={path}: says nothing of its template and head (no {RECORD} in "
                f"config.json); reads it with {'the given' if template else 'the published'} "
                f"template and the {(head or ScalarHead()).name} head",
                NoRecord,
                stacklevel=2,
            )
        else:
            refuse_other(recorded, template, head, f"{key}={path}")
        head = head or (recorded[1] if recorded else ScalarHead())
        load = load_causal_lm if head.causal_lm else load_reward_model
        model = load(path, key=key, **source, **options)
        if isinstance(head, ImplicitHead):
            attach_reference(head, path, key, **options)
        if beside is not None:
            setattr(model.config, RECORD, beside)
        tokenizer = load_tokenizer(path, key=key, **source)
        check_vocabulary(model, tokenizer, path, key)
        return cls(model, tokenizer, template, batch_tokens, head).eval()

    def record(self) -> dict[str, Any]:
        """What ``config.json`` holds under ``cooper_reward``."""
        return {
            "format": _FORMAT,
            "template": dataclasses.asdict(self.template),
            "head": self.head.record(),
            "add_special_tokens": False,  # the template alone makes the row
        }

    def save(self, folder: str | Path) -> None:
        """Write weights (of LoRA: the additions, in peft's form), the record, and tokenizer."""
        super().save(folder)
        if (Path(folder) / ADAPTER_CONFIG).is_file():
            record = json.dumps(self.record(), indent=1)
            (Path(folder) / RECORD_FILE).write_text(record, encoding="utf-8")

    def _check(self, name: str) -> None:
        places = self.head.places or self.template.max_tokens
        if places and not self.tokenizer.is_fast:
            raise ModelError(
                f"{name}: the {self.head.name} head and max_tokens need to know where each token "
                f"stands in the text, and {type(self.tokenizer).__name__} cannot tell; give a fast "
                "tokenizer, or the scalar head with max_tokens=0"
            )
        if self.head.places and "{completion}" not in self.template.text:
            raise ModelError(
                f"{name}: the {self.head.name} head reads the completion, and the template has no "
                "{completion}; give one that has"
            )
        if self.template.max_tokens:
            own = len(self._ids([self.template.render("", "", "")])["input_ids"][0])
            if self.template.max_tokens < own + 8:
                raise ModelError(
                    f"reward_template.max_tokens={self.template.max_tokens}: the template's own "
                    f"text has {own} tokens; give at least {own + 8}"
                )

    # ------------------------------------------------------------------ texts to rows

    def _ids(self, texts: list[str], places: bool = False) -> Any:
        return self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=places)

    def tokenise(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> list[Row]:
        """Render and tokenise N triples: [N] rows of ids."""
        if not completions:
            return []
        triples = list(zip(questions, references, completions, strict=True))
        places = self.head.places or bool(self.template.max_tokens)
        encoded = self._ids([self.template.render(*triple) for triple in triples], places)
        if not places:
            return [Row(ids) for ids in encoded["input_ids"]]
        return [
            self._row(ids, offsets, triple)
            for ids, offsets, triple in zip(
                encoded["input_ids"], encoded["offset_mapping"], triples, strict=True
            )
        ]

    def _row(
        self, ids: list[int], offsets: list[tuple[int, int]], triple: tuple[str, str, str]
    ) -> Row:
        """Cut a row to ``max_tokens`` and mark its completion and the ends of its steps."""
        fields: list[tuple[str, int, int]] = []
        at, completion_at, length = 0, 0, 0
        starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
        for piece in self.template.pieces(*triple):
            if piece.field:
                # Tokens wholly inside may be cut; one that holds a bit of the template may not.
                inside = (bisect_left(starts, at), bisect_left(ends, at + len(piece.text) + 1))
                fields.append((piece.field, inside[0], max(inside)))
            if piece.field == "completion":
                completion_at, length = at, len(piece.text)
            at += len(piece.text)
        if not any(name == "completion" for name, _, _ in fields):
            completion_at, length = 0, at
        spared = self.template.spared(fields, len(ids))
        # Every token that holds a character of the completion.
        first = bisect_left(ends, completion_at + 1)
        behind = max(bisect_left(starts, completion_at + length), first)
        span = (bisect_left(spared, first), bisect_left(spared, behind))
        steps, marks = [], []
        if self.head.per_step:
            there = set(spared)
            text = triple[2]
            for index, (_, stop) in enumerate(split_steps(text)):
                character = self.template.kept_at(len(text), max(stop - 1, 0))
                if character is None or not length:
                    continue
                token = bisect_left(starts, completion_at + character + 1) - 1
                if token in there:
                    steps.append(index)
                    marks.append(bisect_left(spared, token))
            if not marks:  # an empty completion: its one step is read where the row ends
                steps, marks = [len(split_steps(text)) - 1], [len(spared) - 1]
        return Row((ids[index] for index in spared), span, marks, steps if marks else None)

    # ------------------------------------------------------------------ rows to logits

    def _laid_out(self, rows: Sequence[Sequence[int]]) -> tuple[list[Row], RowBatch]:
        known = [row if isinstance(row, Row) else Row(row) for row in rows]
        return known, RowBatch.of(self.model, known, pad_id(self.tokenizer))

    def forward(self, rows: Sequence[Sequence[int]], *, units: bool = False) -> Tensor:
        """Logits of tokenised rows, with gradient: [N] float32.

        Args:
            rows: N.
            units: instead those of what carries a label: a row each, or of all steps row by row.
        """
        if not rows:
            return torch.zeros(0, device=self.model.device)
        with self.weights.acting():
            compute = self.head.units if units else self.head
            return compute(self.model, *self._laid_out(rows))

    def units(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits of what carries a label, with gradient: a row each, or of all steps row by row."""
        return self(rows, units=True)

    def batches(
        self, rows: Sequence[Sequence[int]], batch_tokens: int | None = None
    ) -> list[list[int]]:
        """Cut rows into batches of at most `batch_tokens` tokens as they are laid out.

        Packed, rows that begin alike stand together, and what they begin with counts once; padded,
        they are sorted by length.
        """
        limit = batch_tokens or self.batch_tokens
        if not can_pack(self.model):
            return cut_padded({i: len(row) for i, row in enumerate(rows)}, limit)
        groups = [
            (start, {i: len(rows[i]) - start for i in group}) for start, group in share_starts(rows)
        ]
        return cut_packed(groups, limit)

    def pair_batches(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_tokens: int
    ) -> list[list[int]]:
        """Cut pairs of rows, the longest first, into batches of at most so many tokens."""
        if not can_pack(self.model):
            longest = {i: max(map(len, pair)) for i, pair in enumerate(pairs)}
            return cut_padded(longest, batch_tokens // 2)
        sizes = {i: pair_tokens(*pair) for i, pair in enumerate(pairs)}
        order = sorted(sizes, key=lambda i: (-sizes[i], i))
        return cut_packed([(0, {i: sizes[i]}) for i in order], batch_tokens)

    @torch.no_grad()
    def score(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> Tensor:
        """Logits of N triples without gradient, in evaluation mode: [N] float32 on the CPU.

        Above 0: rather right than wrong. :meth:`probabilities` gives them in [0, 1].
        """
        rows = self.tokenise(questions, references, completions)
        logits = torch.zeros(len(rows))
        training = self.model.training
        self.model.eval()
        for batch in self.batches(rows):
            logits[torch.tensor(batch)] = self.forward([rows[i] for i in batch]).cpu()
        self.model.train(training)
        return logits

    def probabilities(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> Tensor:
        """Probabilities that N completions are right, sigmoid of :meth:`score`: [N] in [0, 1]."""
        return self.score(questions, references, completions).sigmoid()

    @torch.no_grad()
    def token_scores(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> list[Tensor]:
        """Scores of single steps (process head) or tokens (implicit head) of N triples.

        Returns:
            N tensors: step logits, whose minimum is the row's logit, or scaled log-ratios of the
            tokens from the completion's first to the row's last, whose sum it is.

        Raises:
            ModelError: the head scores rows alone.
        """
        if not isinstance(self.head, ImplicitHead) and not self.head.per_step:
            raise ModelError(
                f"the {self.head.name} head scores whole completions; a process or implicit head "
                "scores their parts"
            )
        rows = self.tokenise(questions, references, completions)
        scores: list[Tensor] = [torch.zeros(0)] * len(rows)
        training = self.model.training
        self.model.eval()
        for batch in self.batches(rows):
            known, laid_out = self._laid_out([rows[i] for i in batch])
            if isinstance(self.head, ImplicitHead):
                with self.weights.acting():
                    parts = self.head.token_scores(self.model, known, laid_out)
            else:
                with self.weights.acting():
                    units = self.head.units(self.model, known, laid_out)
                parts = list(units.split([len(row.ends) for row in known]))
            for index, part in zip(batch, parts, strict=True):
                scores[index] = part.cpu()
        self.model.train(training)
        return scores


# ---------------------------------------------------------------------- the record


def recorded_form(config: Any, name: str) -> tuple[RewardTemplate, RewardHead] | None:
    """Template and head that a model's config records, or None where it has no record.

    Raises:
        ModelError: the record cannot be read.
    """
    record = getattr(config, RECORD, None)
    if record is None:
        return None
    try:
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']} where {_FORMAT} is known")
        head = dict(record["head"])
        kind = HEADS[head.pop("name")]
        template = RewardTemplate(**record["template"])
        made = kind(**head) if kind is ImplicitHead else kind()
        if made.record() != record["head"] or record["add_special_tokens"]:
            raise ValueError(f"head {record['head']} is not known here")
    except (KeyError, TypeError, ValueError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(
            f"{name}: config.json's {RECORD} cannot be read ({why}); it was written by another "
            "version of cooper"
        ) from error
    return template, made


def refuse_other(
    recorded: tuple[RewardTemplate, RewardHead],
    template: RewardTemplate | None,
    head: RewardHead | None,
    name: str,
) -> None:
    """Check that what is asked for is what was recorded.

    Raises:
        ModelError: it is not; the message names both.
    """
    asked = {
        "template": dataclasses.asdict(template) if template else None,
        "head": head.record() if head else None,
    }
    held: dict[str, Mapping[str, Any]] = {
        "template": dataclasses.asdict(recorded[0]),
        "head": recorded[1].record(),
    }
    for what, other in asked.items():
        if other is None or other == held[what]:
            continue
        keys = [k for k in {**held[what], **other} if held[what].get(k) != other.get(k)]
        was = ", ".join(f"{k}={held[what].get(k)!r}" for k in keys)
        now = ", ".join(f"{k}={other.get(k)!r}" for k in keys)
        raise ModelError(
            f"{name}: was trained with the {what} {was}, and is asked to score with {now}; leave "
            f"the {what} out to take the model's own"
        )


def attach_reference(head: ImplicitHead, path: str, key: str, **options: Any) -> None:
    """Load the implicit head's reference, unless it has one.

    Raises:
        ModelError: it is not recorded or cannot be loaded.
    """
    if head.frozen is not None:
        return
    if head.reference is None:
        raise ModelError(
            f"{key}={path}: an implicit reward model without the name of its reference; give "
            "ImplicitHead(reference=FOLDER_OR_HUB_ID)"
        )
    reference = load_causal_lm(
        head.reference,
        revision=head.reference_revision,
        key=f"{key}={path}: reference",
        **options,
    )
    head.attach(reference)
