"""Callbacks that a user could bring along; they make one process or all of them go wrong."""

from __future__ import annotations

import json
import time
from typing import Any

import lightning as L
from torch import Tensor

from cooper.collectives import rank, ranks


class Poison(L.Callback):
    """NaN in the last process's gradients of both models in the third step."""

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        """Lightning's hook."""
        if module.rl_step != 2 or rank() != ranks() - 1:
            return
        for engine in module.engines.values():
            backward = engine.backward

            def poisoned(loss: Tensor, backward: Any = backward, engine: Any = engine) -> None:
                engine.backward = backward
                backward(loss * float("nan"))

            engine.backward = poisoned


class Raise(L.Callback):
    """An error in the last process after the third step."""

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """Lightning's hook."""
        if module.rl_step == 3 and rank() == ranks() - 1:
            raise RuntimeError("the last process has had enough")


class Stall(L.Callback):
    """No process comes out of the fifth step's beginning."""

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        """Lightning's hook."""
        if module.rl_step == 4:
            time.sleep(3600)


class Orders(L.Callback):
    """Norms of gradients summed over two micro-batches, in two orders of forwards and backwards."""

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        """Lightning's hook: once, without moving the weights."""
        engine, model = module.engines["reward_model"], module.reward_model
        rates = [group["lr"] for group in engine.optimizer.param_groups]
        self.rate(engine, [0.0] * len(rates))
        rows = model.tokenise(["q"] * 4, ["7"] * 4, ["so 1", "well, it is 20", "3", "no: 4 4"])

        def loss(micro: int) -> Tensor:
            own = [k for k in (2 * micro, 2 * micro + 1) if k % ranks() == rank()]
            return (engine([rows[k] for k in own]) * Tensor([k + 1.0 for k in own])).sum()

        norms = {}
        engine.zero_grad()
        for micro in (0, 1):
            engine.backward(loss(micro))
        norms["forward, backward, forward, backward"] = engine.step(0.0, True)[0]
        engine.zero_grad()
        for one in [loss(0), loss(1)]:
            engine.backward(one)
        norms["forward, forward, backward, backward"] = engine.step(0.0, True)[0]
        self.rate(engine, rates)
        if rank() == 0:
            folder = next(c.folder.path for c in trainer.callbacks if hasattr(c, "folder"))
            (folder / "orders.json").write_text(json.dumps(norms))

    @staticmethod
    def rate(engine: Any, rates: list[float]) -> None:
        """Set the learning rates."""
        for group, value in zip(engine.optimizer.param_groups, rates, strict=True):
            group["lr"] = value
