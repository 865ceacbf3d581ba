"""Write a trained model for others: whole, or as peft's adapter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from cooper.models.adapted import Adapted
from cooper.models.adapters import LoraWeights


def has_adapter(model: Adapted) -> bool:
    """Whether low-rank additions were trained, so that they can be written alone."""
    return isinstance(model.weights, LoraWeights)


def write_model(model: Adapted, folder: Path, *, adapter: bool = False) -> None:
    """Write weights, configuration, tokenizer with its chat template, and generation config.

    The model goes on as it was: a shared base may belong to another role as well.

    Args:
        model: trained.
        folder: that is there.
        adapter: write LoRA's additions alone; else they are merged, in float32, into a copy of
            the base. Of a model trained in full all weights are written either way.
    """
    weights = model.weights
    if adapter or not isinstance(weights, LoraWeights):
        model.save(folder)
        if adapter and model.model.can_generate() and model.model.generation_config is not None:
            model.model.generation_config.save_pretrained(folder)
        return
    # In the base's 16 bits most of what the additions change would be rounded away.
    wrapped: Any = copy.deepcopy(weights.wrapped).float()
    wrapped.merge_and_unload(adapter_names=[weights.role]).save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
