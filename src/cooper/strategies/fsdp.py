"""torch's fully sharded data parallelism, the second one (FSDP2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from cooper.collectives import rank, ranks
from cooper.models.adapted import Adapted
from cooper.strategies.ddp import ProcessesStrategy
from cooper.strategies.engine import Engine, OptimizerState, make_plain


class ShardedEngine(Engine):
    """A model of which each process holds a part of every weight.

    Args:
        model: sharded.
        optimizer: of its trained weights; None: it is frozen.
        before: the model's modules as they were.
        lightning: ``backward`` and ``apply`` of :class:`Engine`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        before: Sequence[Before],
        **lightning: Callable[..., Any],
    ) -> None:
        super().__init__(model, optimizer, **lightning)
        self.before = before
        # While the models of a shared base are written, others may stand in their places.
        self.parts = dict(model.named_parameters(remove_duplicate=False))

    def backward(self, loss: Tensor) -> None:
        """See the base class; torch takes means over processes, and this is a sum."""
        super().backward(loss * ranks())

    def clipped_norm(self, clip_norm: float) -> float:
        """See the base class; the norm is over all parts."""
        norm = torch.nn.utils.clip_grad_norm_(self.trained, clip_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See the base class."""
        parts = [m for m in self.model.modules() if isinstance(m, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(part is not self.model, recurse=False)

    @contextmanager
    def written(self) -> Iterator[None]:
        """See the base class; torch would cut them again when they are asked for."""
        found = self._full()
        parameters = [(module, module._parameters) for module in self.model.modules()]
        if rank() == 0:
            make_plain(self.model, found)
        try:
            yield
        finally:
            for module, own in parameters:
                module._parameters = own

    @torch.no_grad()
    def _full(self) -> dict[str, Tensor | None]:
        """All of what there are parts of, on the CPU of the first process."""
        found: dict[str, Tensor | None] = {}
        for name, weight in self.parts.items():
            if not is_whole(weight):
                whole = full(weight)
                found[name] = whole.cpu() if rank() == 0 else None
        return found

    @contextmanager
    def loading(self) -> Iterator[None]:
        """See the base class; what is loaded is cut on its way in."""

        def cut(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
            for key, weight in module._parameters.items():
                if isinstance(weight, DTensor) and f"{prefix}{key}" in state:
                    state[f"{prefix}{key}"] = like(state[f"{prefix}{key}"], weight)

        hooks = [m.register_load_state_dict_pre_hook(cut) for m in self.model.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def optimizer_state(self) -> OptimizerState:
        """See the base class."""
        kept: OptimizerState = {}
        for index, found in super().optimizer_state().items():
            for name, value in found.items():
                whole = full(value)
                if rank() == 0:
                    kept.setdefault(index, {})[name] = whole.cpu()
        return kept

    def load_optimizer_state(self, state: OptimizerState) -> None:
        """See the base class."""
        cut = {
            index: {
                name: like(value, self.trained[index]) if value.dim() else value
                for name, value in found.items()
            }
            for index, found in state.items()
        }
        super().load_optimizer_state(cut)

    def release(self) -> None:
        """See the base class."""
        found = self._full()
        for module in self.before:
            module.restore()
        if rank() == 0:
            make_plain(self.model, found)


class Before:
    """A module's class and hooks, for when torch has put its own in their place.

    Args:
        module: not sharded yet.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.hooks = {k: v.copy() for k, v in vars(module).items() if _HOOKS.search(k)}

    def restore(self) -> None:
        """Put them back."""
        self.module.__class__ = self.kind
        for key in [key for key in vars(self.module) if key.startswith("__composable")]:
            delattr(self.module, key)
        vars(self.module).update(self.hooks)


_HOOKS = re.compile("_hooks(_|$)")


def is_whole(value: Tensor) -> bool:
    """Whether all of a tensor is here."""
    return not isinstance(value, DTensor)


def full(value: Tensor) -> Tensor:
    """All of a tensor of which there are parts; called by all processes."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, weight: Tensor) -> Tensor:
    """The part of a whole tensor that stands here of a weight."""
    if not isinstance(weight, DTensor):
        return value.to(weight.device)
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


class ShardedStrategy(ProcessesStrategy):
    """``strategy=fsdp2``: each layer is a unit, and what is around them another.

    Around the layers of a base that two models share there is no module that is of one model alone:
    its frozen embeddings stay whole, and what is trained beside the layers is a unit by itself.
    """

    strategy_name = "cooper_fsdp2"
    _before: dict[nn.Module, list[Before]]

    def model_to_device(self) -> None:
        """Shard each model; torch moves the parts. Optimizers are made after that."""
        assert self.lightning_module is not None
        settings: dict[str, Any] = {"mesh": init_device_mesh(self.root_device.type, (ranks(),))}
        if self.precision_plugin.precision == "bf16-mixed":
            # Brought together as what is computed with; the parts and the gradients are float32.
            settings["mp_policy"] = MixedPrecisionPolicy(
                torch.bfloat16, torch.float32, cast_forward_inputs=False
            )
        models = [
            child
            for child in self.lightning_module.children()
            if isinstance(child, Adapted) and any(True for _ in child.parameters())
        ]
        for model in models:
            model.prepare()
        self._before = {m: [Before(module) for module in m.modules()] for m in models}
        count = Counter(module for model in models for module in model.modules())
        for model in models:
            layers = set(model.model._no_split_modules or ())
            for part in model.model.modules():
                if type(part).__name__ in layers and not isinstance(part, FSDPModule):
                    fully_shard(part, **settings, reshard_after_forward=True)
            if max(count[module] for module in model.modules()) == 1:
                fully_shard(model, **settings)
                continue
            for part in model.modules():
                if any(is_whole(w) and w.requires_grad for w in part.parameters(recurse=False)):
                    fully_shard(part, **settings, reshard_after_forward=True)
        for model in models:
            for part in model.modules():
                if isinstance(part, FSDPModule):
                    # A model comes before its layers, which else take themselves for roots.
                    cast(Any, part)._get_fsdp_state()._lazy_init()
        self.lightning_module.to(self.root_device)

    def engine(
        self, model: nn.Module, optimizer: Any, clip_norm: float, **lightning: Callable[..., Any]
    ) -> Engine:
        """See the base class."""
        return ShardedEngine(model, optimizer, self._before[model], **lightning)

    def frozen(self, model: nn.Module) -> Engine:
        """See the base class."""
        return ShardedEngine(model, None, self._before[model])
