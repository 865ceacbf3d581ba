"""Which of a model's weights are trained: all, or low-rank additions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from cooper.checks import at_least, at_most
from cooper.errors import ModelError
from cooper.rng import seed_of


class Adapter(ABC):
    """Prepares a model for training and gives a plain one back afterwards."""

    @abstractmethod
    def attach(self, model: PreTrainedModel, seed: int) -> Callable[[], PreTrainedModel]:
        """Mark what is trained; the model computes what it did before.

        Args:
            model: changed in place.
            seed: of new weights.

        Returns:
            what is called after training: gives the model as transformers alone loads it.

        Raises:
            ModelError: the model does not take it.
        """


class FullAdapter(Adapter):
    """All weights are trained."""

    def attach(self, model: PreTrainedModel, seed: int) -> Callable[[], PreTrainedModel]:
        """Nothing is added."""
        model.requires_grad_(True)
        return lambda: model


class LoraAdapter(Adapter):
    """Low-rank additions to frozen layers (LoRA, arXiv 2106.09685), by peft; merged at the end.

    A classifier's score layer is trained whole. The additions start at zero.

    Args:
        rank: of the additions.
        alpha: their scale is alpha / rank.
        dropout: on their input.
        target_modules: names of the layers, or "all-linear".
    """

    def __init__(
        self,
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        target_modules: str | Sequence[str] = "all-linear",
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules
        at_least("adapter", self, rank=1, alpha=1e-6, dropout=0)
        at_most("adapter", self, dropout=0.9)

    def attach(self, model: PreTrainedModel, seed: int) -> Callable[[], PreTrainedModel]:
        """Freeze the layers and add the low-rank ones."""
        from peft import LoraConfig, TaskType, get_peft_model

        names = self.target_modules
        classifier = hasattr(model, "score")
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS if classifier else TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=cast(Any, self.alpha),
            lora_dropout=self.dropout,
            target_modules=names if isinstance(names, str) else list(names),
        )
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(seed, "lora"))
                wrapped: Any = get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(
                f"adapter.target_modules={names}: {str(error).splitlines()[0]}"
            ) from error
        return wrapped.merge_and_unload
