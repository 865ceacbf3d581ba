"""Peak memory of real model code, run on tensors without content.

torch's fake tensors have shapes, dtypes and storages, but no bytes: a forward and backward of any
size costs the time of its bookkeeping. Each storage is counted from the operation that makes it to
its end, which is what an allocator without waste would hold. The tensors say that they are on the
CPU, whose attention kernel, like the GPU's, keeps no matrix of all pairs of tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Style = Literal["float32", "autocast", "bfloat16"]

_FAKE = FakeTensorMode()


@dataclass(frozen=True)
class Traced:
    """What some code holds beside what was there before it, bytes."""

    peak: int
    left: int  # of its result, and whatever else outlives it


@contextmanager
def fake() -> Iterator[None]:
    """Make tensors without content; weights made here take no memory."""
    with _FAKE:
        yield


def trace(
    run: Callable[[], Any],
    known: Iterable[Tensor],
    style: Style,
    there: Iterable[Tensor] = (),
) -> Traced:
    """Run code on tensors without content and count what it holds.

    Args:
        run: made of torch's operations; its result is dropped at the end.
        known: tensors that are not counted, such as weights.
        style: "autocast" computes in bfloat16 on float32 weights, as the Trainer's bf16-mixed does.
        there: tensors that are counted from the start, and that the code may end.
    """
    with _FAKE, _Live(known, there) as live, _AllTrue(), autocast(style):
        result = run()
        left = live.live
        del result
    return Traced(live.peak, left)


@contextmanager
def autocast(style: Style) -> Iterator[None]:
    """Lightning's bf16-mixed: without a cache of the cast weights."""
    with torch.autocast("cpu", torch.bfloat16, enabled=style == "autocast", cache_enabled=False):
        yield


class _Live(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, while they live."""

    def __init__(self, known: Iterable[Tensor], there: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()  # addresses of torch's storages that live
        for tensor in known:
            self._add(tensor, 0)
        for tensor in there:
            self._add(tensor)
        self.peak = self.live

    def _add(self, tensor: Tensor, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._seen:
            return
        size = storage.nbytes() if size is None else size
        self._seen.add(storage._cdata)
        self.live += size
        weakref.finalize(storage, self._drop, storage._cdata, size)

    def _drop(self, key: int, size: int) -> None:
        self.live -= size
        self._seen.discard(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        self.peak = max(self.peak, self.live)
        return result


class _AllTrue(TorchFunctionMode):
    """How many elements a mask selects is content; in a plan all rows are of one length: all."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Select all elements where a mask selects some."""
        if func is Tensor.__getitem__ and _is_mask(args[1]):
            values, mask = args
            return values.flatten(0, mask.dim() - 1).index_select(0, torch.arange(mask.numel()))
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype is torch.bool
