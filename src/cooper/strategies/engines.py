"""The engines of a module's models."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import lightning as L
from torch import nn

from cooper.strategies.engine import Engine


class HasModel(Protocol):
    """A policy or a reward model."""

    model: Any


class Engines(UserDict[str, Engine]):
    """Of the trained models by name; those of frozen ones beside them."""

    def __init__(self, trained: Mapping[str, Engine], frozen: Sequence[Engine] = ()) -> None:
        super().__init__(trained)
        self.frozen = list(frozen)

    @contextmanager
    def whole(self, *models: HasModel) -> Iterator[None]:
        """All weights of some models on every process; see :meth:`Engine.whole`.

        A model that has no engine, or shares the weights of one that has, may be among them.
        """
        with ExitStack() as stack:
            for engine in self._of(models):
                stack.enter_context(engine.whole())
            yield

    @contextmanager
    def written(self, *models: HasModel) -> Iterator[None]:
        """All weights of some models on the first process; see :meth:`Engine.written`."""
        with ExitStack() as stack:
            for engine in self._of(models):
                stack.enter_context(engine.written())
            yield

    def _of(self, models: Sequence[HasModel]) -> list[Engine]:
        wanted = [model.model for model in models]
        engines: list[Any] = [*self.values(), *self.frozen]
        return [e for e in engines if any(e.model.model is model for model in wanted)]


def make_engines(
    module: L.LightningModule, trained: Mapping[str, nn.Module], frozen: Sequence[nn.Module] = ()
) -> Engines:
    """Make them as the Trainer's strategy has them: one of ours, or Lightning's for one device.

    Args:
        module: in a Trainer, its optimizers made, one for each trained model in their order, and
            ``updaters`` with their clips.
        trained: models by name.
        frozen: models that are only computed with; one that has no weights of its own, like the
            reference of a LoRA policy, needs no engine.

    Raises:
        TypeError: the strategy is one that wraps the module or shards it by itself.
    """
    strategy: Any = module.trainer.strategy
    made: dict[str, Engine] = {}
    for (name, model), raw, wrapped in zip(
        trained.items(),
        as_list(module.optimizers(use_pl_optimizer=False)),
        as_list(module.optimizers(use_pl_optimizer=True)),
        strict=True,
    ):
        lightning = {"backward": module.manual_backward, "apply": wrapped.step}
        if hasattr(strategy, "engine"):
            clip_norm = module.updaters[name].clip_norm  # type: ignore[index,operator]
            made[name] = strategy.engine(model, raw, clip_norm, **lightning)
        else:
            made[name] = Engine(model, raw, **lightning)
    own = [m for m in frozen if any(True for _ in m.parameters())]
    others = [strategy.frozen(m) if hasattr(strategy, "frozen") else Engine(m) for m in own]
    return Engines(made, others)


def as_list(value: Any) -> list[Any]:
    """What Lightning gives alone where there is one of it."""
    return list(value) if isinstance(value, (list, tuple)) else [value]
