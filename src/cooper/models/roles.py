"""Which low-rank additions a frozen base computes with.

peft switches adapters too, but its ``set_adapter`` and ``disable_adapter`` also reset
``requires_grad``: called between a forward and its backward they drop gradients without a word.
The switch here touches nothing that is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn


class Roles:
    """The switch over all low-rank layers of a base.

    Args:
        base: a model with layers of peft's in it.
        resting: the role outside of :meth:`acting`.
    """

    def __init__(self, base: nn.Module, resting: str) -> None:
        self.layers = low_rank_layers(base)
        self.current: str | None = None
        self._set(resting)

    @contextmanager
    def acting(self, role: str | None) -> Iterator[None]:
        """Compute with one role's additions; None: as the base alone.

        Args:
            role: name of an adapter.
        """
        before = self.current
        self._set(role)
        try:
            yield
        finally:
            self._set(before)

    def mixes(self, role: str) -> bool:
        """Whether :meth:`partly` holds for a role: all its additions are plain products."""
        from peft.tuners.lora import Linear

        return all(
            isinstance(layer, Linear) and role not in layer.lora_variant
            for layer in self.layers
            if role in layer.scaling
        )

    @contextmanager
    def partly(self, role: str, rows: Tensor) -> Iterator[None]:
        """Compute some rows of a batch with a role's additions, the others as the base alone.

        The base's weights are read once for all of them.

        Args:
            role: name of an adapter that :meth:`mixes`.
            rows: [B] bool: which rows of [B, T, H] compute with the additions.
        """
        # What the additions are multiplied by anyway becomes a number a row: no product is added.
        scales = [(layer.scaling, layer.scaling.get(role)) for layer in self.layers]
        scaled = {scale: rows[:, None, None] * scale for _, scale in scales if scale is not None}
        try:
            for scaling, scale in scales:
                if scale is not None:
                    scaling[role] = scaled[scale]
            with self.acting(role):
                yield
        finally:
            for scaling, scale in scales:
                if scale is not None:
                    scaling[role] = scale

    def _set(self, role: str | None) -> None:
        if role == self.current and role is not None:
            return
        for layer in self.layers:
            layer._disable_adapters = role is None
            if role is not None:
                layer._active_adapter = [role]
        self.current = role

    def for_checkpointing(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """``context_fn`` of torch's checkpointing: recompute in the role of the forward."""
        return nullcontext(), self.acting(self.current)


def low_rank_layers(model: nn.Module) -> list[Any]:
    """The layers that peft has put into a model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
