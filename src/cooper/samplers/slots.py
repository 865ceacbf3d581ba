"""A key-value cache with a fixed place for each sequence being decoded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """One layer's keys and values: [slots, key-value heads, tokens, head size] each."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the room, when the first keys show what they are like."""
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (self.view.slots, states.shape[1], self.view.tokens, states.shape[3])
            setattr(self, name, torch.zeros(shape, dtype=states.dtype, device=states.device))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write what a forward computed, give what its attention reads."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._whole()
        view = self.view
        if view.places is not None:  # prompts, each for all sequences of its group
            length = view.places.shape[1]
            for states, new in ((keys, key_states), (values, value_states)):
                flat = new.transpose(1, 2).flatten(0, 1)  # [places, heads, size]
                states[view.rows, :, :length] = flat[view.places].transpose(1, 2)
            return key_states, value_states
        keys[view.rows, :, view.positions] = key_states[:, :, 0]
        values[view.rows, :, view.positions] = value_states[:, :, 0]
        count = len(view.rows)
        return keys[:count, :, : view.longest], values[:count, :, : view.longest]

    def _whole(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def move(self, sources: Tensor, targets: Tensor, longest: int) -> None:
        """Take sequences to other places."""
        for states in self._whole():
            states[targets, :, :longest] = states[sources, :, :longest]

    def resize(self, used: int, longest: int) -> None:
        """Make the room that the view says; of the old one so many slots and tokens stay."""
        for name, states in zip(("keys", "values"), self._whole(), strict=True):
            shape = (self.view.slots, states.shape[1], self.view.tokens, states.shape[3])
            new = torch.zeros(shape, dtype=states.dtype, device=states.device)
            new[:used, :, :longest] = states[:used, :, :longest]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a forward sees."""
        return (query_length if self.view.places is not None else self.view.longest), 0

    def get_seq_length(self) -> int:
        """Positions are given, so nothing is counted here."""
        return 0

    def get_max_length(self) -> int:
        """Tokens that a slot holds."""
        return self.view.tokens


class View:
    """Which part of the slots a forward writes and reads.

    Args:
        slots: sequences at once.
        tokens: longest sequence.
    """

    def __init__(self, slots: int, tokens: int) -> None:
        self.slots = slots
        self.tokens = tokens
        self.rows = torch.zeros(0, dtype=torch.long)
        # [R, T] of a prefill: where each row's prompt stands in it, flat; behind its end any place
        self.places: Tensor | None = None
        self.positions = torch.zeros(0, dtype=torch.long)
        self.longest = 0


class SlotCache(Cache):
    """Slots 0 to n - 1 are being decoded; a sequence that ends gives its place to the last one.

    Args:
        layers: of the model.
        slots: sequences at once.
        tokens: longest sequence, prompt and completion.
    """

    def __init__(self, layers: int, slots: int, tokens: int) -> None:
        self.view = View(slots, tokens)
        self.of_layer = [_Layer(self.view) for _ in range(layers)]
        super().__init__(layers=list(self.of_layer))

    def write_prompts(self, rows: Tensor, places: Tensor) -> None:
        """The next forward is of prompts: row r takes what stands at ``places[r]`` of it."""
        self.view.rows, self.view.places = rows, places

    def write_tokens(self, positions: Tensor) -> None:
        """The next forward is of one token a sequence, at these positions: [n]."""
        self.view.rows = torch.arange(len(positions), device=positions.device)
        self.view.places, self.view.positions = None, positions
        self.view.longest = int(positions.max()) + 1

    def resize(self, slots: int, tokens: int, written: Tensor) -> None:
        """Make room for other sequences.

        Args:
            slots: sequences at once, as many as stay or more.
            tokens: longest sequence, no shorter than before.
            written: [n] tokens of the sequences that stay, in the first slots.
        """
        longest = int(written.max()) if len(written) else 0
        self.view.slots, self.view.tokens = slots, tokens
        for layer in self.of_layer:
            if layer.is_initialized:
                layer.resize(len(written), longest)

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Take sequences to other slots."""
        for layer in self.of_layer:
            layer.move(sources, targets, self.view.tokens)


def has_slots(model: PreTrainedModel) -> bool:
    """Whether a model's layers all attend to the whole sequence, as the slots have it."""
    config: Any = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    window = getattr(config, "sliding_window", None)
    return not (window and getattr(config, "use_sliding_window", True))
