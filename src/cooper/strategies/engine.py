"""How one model computes and takes its steps; each strategy has a kind of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OptimizerState = dict[int, dict[str, Any]]  # by the place of the weight among the trained ones


class Engine:
    """A model whose weights and gradients are all here; the base of the others.

    Args:
        model: computed with.
        optimizer: of its trained weights; None: it is frozen.
        backward: adds a loss's gradients; Lightning's ``manual_backward`` where there is one.
        apply: steps the optimizer, in Lightning by its wrapper, which counts; None: itself.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = None,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        apply: Callable[[], Any] | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._backward, self._apply = backward, apply

    @property
    def trained(self) -> list[nn.Parameter]:
        """What the optimizer moves, in its order."""
        return weights_of(self.optimizer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute with gradient. All processes do so as often, and each time go backward."""
        return self.model(*args, **kwargs)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this process's share in a loss."""
        self._backward(loss)

    def reduce(self) -> None:
        """Add up the processes' gradients."""

    def step(self, clip_norm: float, finite: bool) -> tuple[float, bool]:
        """Clip by the norm of the whole gradient and apply it, where everything is finite.

        Args:
            clip_norm: largest norm; 0: no clipping.
            finite: whether the loss was, on all processes.

        Returns:
            the norm before clipping, and whether the weights moved: alike on all processes.
        """
        self.reduce()
        norm = self.clipped_norm(clip_norm if clip_norm > 0 else math.inf)
        applied = finite and math.isfinite(norm)
        if applied:
            (self._apply or self.optimizer.step)()
        self.optimizer.zero_grad()
        return norm, applied

    def clipped_norm(self, clip_norm: float) -> float:
        """Clip, and give the norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self.trained, clip_norm))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All weights on every process, to compute without gradient.

        Inside, each process may compute as often as it likes.
        """
        yield

    @contextmanager
    def written(self) -> Iterator[None]:
        """All weights on the first process, for it to write."""
        with self.whole():
            yield

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Weights may be put in from outside, on every process the same ones."""
        with self.whole():
            yield

    def release(self) -> None:
        """Make the model an ordinary one again, on the first process, once training has ended."""

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's running means, whole; on the CPU of the first process at least."""
        return self.optimizer.state_dict()["state"]

    def load_optimizer_state(self, state: OptimizerState) -> None:
        """Put them back, on every process the same ones; rates are the optimizer's own."""
        settings = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": settings})
        take_masters(self.trained, state)


def weights_of(optimizer: Any) -> list[nn.Parameter]:
    """All that an optimizer moves, in its order."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


MASTER = "master"  # float32 weights beside the 16-bit ones that a model computes with


@torch.no_grad()
def take_masters(weights: Iterable[nn.Parameter], state: OptimizerState) -> None:
    """Take over the exact weights of a run that kept them apart."""
    for index, weight in enumerate(weights):
        if MASTER in state.get(index, {}):
            weight.copy_(state[index][MASTER])


def make_plain(model: nn.Module, weights: Mapping[str, Tensor | None]) -> None:
    """Give a model ordinary weights again, in place of those that a strategy has made of them.

    Args:
        model: changed in place.
        weights: by name; those that stand in several places do so afterwards. What is not among
            them stays.
    """
    made: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        own: dict[str, nn.Parameter | None] = {}
        for key, before in module._parameters.items():
            value = weights.get(f"{name}.{key}" if name else key)
            if before is None or value is None:
                own[key] = before
                continue
            own[key] = made.setdefault(
                id(before), nn.Parameter(value, requires_grad=before.requires_grad)
            )
        module._parameters = own
