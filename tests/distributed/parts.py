"""Callbacks that a user could bring along; they make one process or all of them go wrong."""

from __future__ import annotations

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
    """An error in the last process after the second step."""

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """Lightning's hook."""
        if module.rl_step == 2 and rank() == ranks() - 1:
            raise RuntimeError("the last process has had enough")


class Stall(L.Callback):
    """No process comes out of the fifth step's beginning."""

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        """Lightning's hook."""
        if module.rl_step == 4:
            time.sleep(3600)
