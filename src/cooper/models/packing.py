"""Completions of many lengths in one row, without padding, each group's prompt computed once.

Everything but attention works token by token, so tokens of all sequences may stand in one row. The
attention takes each sequence apart: its prompt's tokens, which the whole group has in common, and
its own. It is transformers' ``sdpa`` for every other call.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cooper.models.evaluating import evaluating

NAME = "cooper_packed"
# Sequences shorter than this share of a bucket's longest, less some tokens, begin the next bucket.
_TIGHT, _SLACK = 0.75, 8


@dataclass(frozen=True)
class Stretch:
    """One computation of attention: some tokens of a sequence look at the sequence."""

    places: Tensor  # [L] of the sequence
    first: int = 0  # the first token that looks
    kept: int = 0  # the first one whose output is wanted


@dataclass(frozen=True)
class Bucket:
    """Stretches of similar length, which attention computes as one batch."""

    queries: Tensor  # [R, Q] places in the row; behind a stretch's end any
    keys: Tensor  # [R, L] likewise
    mask: Tensor | None  # [R, 1, Q, L]; None: queries are the keys, and each looks back
    kept: Tensor  # [K] of the R * Q outputs, those that are wanted

    @classmethod
    def of(cls, part: Sequence[Stretch], device: torch.device) -> Bucket:
        """Pad some stretches."""
        wide = max(len(s.places) - s.first for s in part)
        longest = max(len(s.places) for s in part)
        queries = torch.zeros(len(part), wide, dtype=torch.long)
        keys = torch.zeros(len(part), longest, dtype=torch.long)
        kept: list[Tensor] = []
        for row, stretch in enumerate(part):
            count = len(stretch.places) - stretch.first
            queries[row, :count] = stretch.places[stretch.first :]
            keys[row, : len(stretch.places)] = stretch.places
            kept.append(row * wide + torch.arange(stretch.kept - stretch.first, count))
        mask = None
        if part[0].first:
            at = torch.tensor([s.first for s in part])[:, None] + torch.arange(wide)
            mask = (torch.arange(longest) <= at[..., None])[:, None].to(device)
        return cls(queries.to(device), keys.to(device), mask, torch.cat(kept).to(device))


@dataclass(frozen=True)
class Pack:
    """Sequences of some groups in one row of S tokens."""

    ids: Tensor  # [1, S]
    positions: Tensor  # [1, S] within each sequence
    predictors: Tensor  # [sum of T_i] the place that predicts each completion token
    buckets: tuple[Bucket, ...]
    scatter: Tensor  # [S] for each place, which of all buckets' kept outputs is its own
    places: tuple[Tensor, ...]  # of each sequence, its prompt's and its own; on the CPU

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Tensor],
        owners: Sequence[int],
        device: torch.device,
        whole: bool | None = None,
    ) -> Pack:
        """Lay out completions behind their prompts.

        Args:
            prompts: of each completion.
            completions: [T_i] ids each.
            owners: completions with one owner have one prompt; they need not stand together.
            device: where to.
            whole: let a prompt's tokens look anew in each of its group's sequences, so that
                attention needs no mask; by default not on the CPU. A GPU's fastest kernels take
                none, and long completions leave little to save.
        """
        whole = device.type != "cpu" if whole is None else whole
        groups: dict[int, list[int]] = {}
        for row, owner in enumerate(owners):
            groups.setdefault(owner, []).append(row)
        ids: list[Tensor] = []
        positions: list[Tensor] = []
        predictors: list[Tensor] = [torch.empty(0)] * len(owners)
        stretches: list[Stretch] = []
        places: list[Tensor] = [torch.empty(0)] * len(owners)
        at = 0
        for rows in groups.values():
            prompt = torch.tensor(prompts[rows[0]], dtype=torch.long)
            shared = torch.arange(at, at + len(prompt))
            ids.append(prompt)
            positions.append(torch.arange(len(prompt)))
            at += len(prompt)
            apart = len(rows) > 1 and not whole
            if apart and len(prompt):
                stretches.append(Stretch(shared))
            for number, row in enumerate(rows):
                length = len(completions[row])
                own = torch.arange(at, at + length)
                ids.append(completions[row].cpu())
                positions.append(torch.arange(len(prompt), len(prompt) + length))
                predictors[row] = torch.cat([shared[-1:], own])[:length]
                places[row] = torch.cat([shared, own])
                if apart and length:
                    stretches.append(Stretch(places[row], len(prompt), len(prompt)))
                elif not apart and (length or not number):
                    stretches.append(Stretch(places[row], 0, len(prompt) if number else 0))
                at += length
        buckets, scatter, kept = [], torch.empty(at, dtype=torch.long), 0
        for part in _alike(stretches):
            for stretch in part:
                own = stretch.places[stretch.kept :]
                scatter[own] = torch.arange(kept, kept + len(own))
                kept += len(own)
            buckets.append(Bucket.of(part, device))
        return cls(
            torch.cat(ids)[None].to(device),
            torch.cat(positions)[None].to(device),
            torch.cat(predictors).to(device),
            tuple(buckets),
            scatter.to(device),
            tuple(places),
        )

    def given(self) -> dict[str, Any]:
        """The arguments of a model's forward."""
        return {
            "input_ids": self.ids,
            "position_ids": self.positions,
            # Keeps transformers from making a mask of its own.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.ids.device),
            "pack": self,
        }


def _alike(stretches: list[Stretch]) -> list[list[Stretch]]:
    """Stretches by descending length, cut where they would pad too much."""

    def looking(stretch: Stretch) -> int:
        return len(stretch.places) - stretch.first

    found: list[list[Stretch]] = []
    for stretch in sorted(stretches, key=lambda s: (s.first > 0, -looking(s))):
        begun = found[-1][0] if found else None
        if (
            begun is None
            or (begun.first > 0) != (stretch.first > 0)
            or looking(stretch) < _TIGHT * looking(begun) - _SLACK
        ):
            found.append([])
        found[-1].append(stretch)
    return found


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    pack: Pack | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each sequence of a pack; without one, transformers' ``sdpa``.

    Args:
        module: the attention layer.
        query: [1, heads, S, size].
        key: [1, key-value heads, S, size].
        value: the same.
        attention_mask: of no meaning for a pack.
        dropout: on the weights.
        scaling: of the products.
        pack: the layout, handed on by the model's forward.
        **kwargs: for sdpa.
    """
    if pack is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    heads, size = query.shape[1], value.shape[3]
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # [S, heads, size]
    outputs = []
    for bucket in pack.buckets:
        q, k, v = (
            states.index_select(0, places.view(-1))
            .view(*places.shape, states.shape[1], -1)
            .transpose(1, 2)
            for states, places in zip(rows, (bucket.queries, bucket.keys, bucket.keys), strict=True)
        )
        k, v = repeat_kv(k, heads // k.shape[1]), repeat_kv(v, heads // v.shape[1])
        out = scaled_dot_product_attention(
            q, k, v, bucket.mask, dropout, is_causal=bucket.mask is None, scale=scaling
        )
        flat = out.transpose(1, 2).reshape(-1, heads * size)
        outputs.append(flat.index_select(0, bucket.kept))
    packed = torch.cat(outputs).index_select(0, pack.scatter)
    return packed.view(1, -1, heads, size), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def can_pack(model: PreTrainedModel) -> bool:
    """Whether a model's attention is the one of this file; takes it over from sdpa where it may.

    A model of which a few packed tokens come out otherwise than alone keeps its own: it has
    positions or an attention that a pack does not know.
    """
    # Of the layers that will be asked: a classifier over a shared backbone has another config.
    backbone = getattr(model, model.base_model_prefix, model)
    config: Any = backbone.config.get_text_config()
    if config._attn_implementation == NAME:
        return True
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    whole = set(kinds) == {"full_attention"} if kinds else not window
    if (
        config._attn_implementation != "sdpa"
        or not whole
        or backbone in _UNFIT
        or not model._can_set_attn_implementation()
    ):
        return False
    values = not isinstance(next(backbone.parameters()), FakeTensor)  # those of a plan have none
    with evaluating(model):
        alone = _few_tokens(backbone, packed=False) if values else None
        model.set_attn_implementation(NAME)
        fits = config._attn_implementation == NAME
        if fits and alone is not None:
            fits = _same(alone, _few_tokens(backbone, packed=True))
    if not fits:
        model.set_attn_implementation("sdpa")
        _UNFIT.add(backbone)
    return fits


_UNFIT: WeakSet[nn.Module] = WeakSet()


def _few_tokens(backbone: Any, packed: bool) -> Tensor | None:
    """[24, H] last states of three sequences, of which two begin alike; None: it cannot do it."""
    vocabulary, device = backbone.config.get_text_config().vocab_size, backbone.device
    start, *own = (
        [(7 * i + 3) % vocabulary for i in places]
        for places in (range(6), range(6, 12), range(20, 24), range(40, 48))
    )
    rows = [start + own[0], start + own[1], own[2]]
    if not packed:
        states = [
            backbone(input_ids=torch.tensor([row], device=device), use_cache=False)[0][0]
            for row in rows
        ]
        return torch.cat([states[0], states[1][6:], states[2]])
    pack = Pack.of([start, start, []], [torch.tensor(ids) for ids in own], [0, 0, 1], device)
    try:
        states = backbone(**pack.given(), use_cache=False)[0][0]
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None  # its forward takes no positions, or another mask
    return states[torch.cat([pack.places[0], pack.places[1][6:], pack.places[2]]).to(device)]


def _same(one: Tensor, other: Tensor | None) -> bool:
    """Up to the order of sums; most tokens, for an expert may be chosen by a hair."""
    if other is None:
        return False
    half = one.dtype != torch.float32 or torch.is_autocast_enabled(one.device.type)
    apart = (one - other).abs().float().amax(-1).median()
    return bool(apart <= (0.1 if half else 1e-3) * one.float().std())


_SAID: set[str] = set()  # kinds of models that were said to be padded


def say_padded(model: PreTrainedModel) -> None:
    """Warn, once for each kind of model, that it computes with padding."""
    kind = type(model).__name__
    if kind not in _SAID:
        _SAID.add(kind)
        attention = model.config.get_text_config()._attn_implementation
        warnings.warn(
            f"{kind} computes with padding: packs need attention over whole sequences by "
            f"attn_implementation=sdpa, and it has {attention}"
            f"{'' if attention != 'sdpa' else ' with windows, biases or layers of another kind'}",
            stacklevel=4,
        )
