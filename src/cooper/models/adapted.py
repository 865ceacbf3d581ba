"""What policy and reward model share: a model in Hugging Face form that an adapter trains."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cooper.models.adapters import Adapter, Weights
from cooper.models.packing import can_pack


class Adapted(nn.Module):
    """A model, its tokenizer, and which of its weights are trained; at first all.

    Args:
        model: in Hugging Face form.
        tokenizer: the model's own.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.weights = Weights(model)

    def adapt(self, adapter: Adapter, seed: int) -> None:
        """Train what the adapter says.

        Args:
            adapter: full or LoRA.
            seed: of new weights.

        Raises:
            ModelError: the model does not take it.
        """
        self.weights = adapter.attach(self.model, seed)

    def prepare(self) -> None:
        """Find out what the model can do while its weights are whole: it is tried."""
        can_pack(self.model)

    def merge(self) -> None:
        """Make what was trained part of the model's own weights."""
        self.model = self.weights.merged()
        self.weights = Weights(self.model)

    def narrow(self, dtype: torch.dtype) -> None:
        """Give the weights another type; buffers stay: positions rotate wrongly in 16 bits."""
        for weight in self.parameters():
            weight.data = weight.data.to(dtype)

    def freeze(self) -> None:
        """Train nothing."""
        for parameter in self.weights.trained:
            parameter.requires_grad_(False)
        self.eval()

    def save(self, folder: str | Path) -> None:
        """Write weights (of LoRA: the additions, in peft's form), config and tokenizer."""
        self.weights.save(folder)
        self.tokenizer.save_pretrained(folder)
