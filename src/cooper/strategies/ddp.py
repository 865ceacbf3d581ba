"""Every process has all weights; gradients are added up once a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from cooper.strategies.engine import Engine

_BUCKET = 2**26  # numbers added up at once: 256 MiB of float32


class DataParallelEngine(Engine):
    """Adds up the gradients after the last backward of a step.

    torch's wrapper would do so during it, and hide the time. But a step here has one sum of
    gradients to hundreds of forwards, the wrapper has to know which backward is the last one and
    which weights took part, and it cuts its buckets anew in each process's first step, so that a
    resumed run of three or more processes would add in another order.
    """

    def reduce(self) -> None:
        """See the base class; a weight without a gradient has 0."""
        for weight in self.trained:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        for bucket in buckets([w.grad for w in self.trained if w.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def buckets(tensors: list[Tensor], size: int = _BUCKET) -> Iterator[list[Tensor]]:
    """Tensors side by side, of one kind, and of at most so many numbers unless it is one."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and (held + tensor.numel() > size or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel()
    if bucket:
        yield bucket


class ProcessesStrategy(DDPStrategy):
    """What the strategies of several processes share: the group, the devices, an engine a model.

    Nothing is wrapped around the LightningModule: each of its models has an engine.

    Args:
        timeout: minutes that a process waits for the others before it gives up.
    """

    def __init__(self, timeout: float = 120.0) -> None:
        super().__init__(timeout=timedelta(minutes=timeout))

    def configure_ddp(self) -> None:
        """Lightning would wrap the module."""

    def engine(
        self, model: nn.Module, optimizer: Any, clip_norm: float, **lightning: Callable[..., Any]
    ) -> Engine:
        """Make the engine of a trained model.

        Args:
            model: on the device, but of a strategy that shards.
            optimizer: made by the module's ``configure_optimizers``.
            clip_norm: largest norm of its gradient; 0: no clipping.
            lightning: ``backward`` and ``apply`` of :class:`Engine`.
        """
        return DataParallelEngine(model, optimizer, **lightning)

    def frozen(self, model: nn.Module) -> Engine:
        """Make the engine of a model that is only computed with."""
        return Engine(model)


class DataParallelStrategy(ProcessesStrategy):
    """``strategy=ddp``."""

    strategy_name = "cooper_ddp"
