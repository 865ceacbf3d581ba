"""What the processes of a run tell each other.

Every process holds a whole step: problems, rollouts, verdicts, scores, pairs. What is heavy is cut
into parts, one a process, and what comes out is gathered; so whatever is decided is decided from
the same data everywhere. Each function here is called by all processes, in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

_waited = 0.0
_alone = False


def ranks() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if _several() else 0


def _several() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one: for work that the others take no part in."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def wait() -> None:
    """Come together; the time that this takes is what :func:`waited` tells."""
    global _waited
    if ranks() > 1:
        began = time.perf_counter()
        dist.barrier()
        _waited += time.perf_counter() - began


def waited() -> float:
    """Seconds spent waiting for other processes since this was last asked."""
    global _waited
    seconds, _waited = _waited, 0.0
    return seconds


def gathered(value: T) -> list[T]:
    """Everybody's value, in the order of the processes."""
    if ranks() == 1:
        return [value]
    wait()
    values: list[Any] = [None] * ranks()
    dist.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """The first process's value."""
    if ranks() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0, device=_device())
    return values[0]


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, the same to the bit on each: on the device it came from."""
    if ranks() == 1:
        return values
    wait()
    total = values.to(_device(), copy=True)
    dist.all_reduce(total)
    return total.to(values.device)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any process; every process gets the same answer."""
    return bool(most_of_ranks(int(flag)))


def most_of_ranks(count: int) -> int:
    """The largest count of all processes; every process gets the same answer."""
    if ranks() == 1:
        return count
    most = torch.tensor(count, device=_device())
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


def _device() -> torch.device:
    """Where a collective's tensors have to be."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


# ---------------------------------------------------------------------- parts


def own_part(count: int) -> range:
    """Which of so many things are this process's: as many for each, side by side."""
    first, after = (count * k // ranks() for k in (rank(), rank() + 1))
    return range(first, after)


def spread(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Work on all items, each process on a part of them.

    Args:
        items: the same on every process.
        work: gives a result for each item that it is given, of which there may be none.

    Returns:
        all results in the order of the items, the same on every process.
    """
    if ranks() == 1:
        return list(work(items))
    mine = own_part(len(items))
    done = list(work(items[mine.start : mine.stop]))
    return [result for part in gathered(done) for result in part]


def cut_evenly(costs: Sequence[float], parts: int) -> list[range]:
    """Cut a row of things into runs of about the same cost; some are empty if there are few."""
    after = list(accumulate(costs))
    total = after[-1] if after else 0
    cuts, at = [0], 0
    for part in range(1, parts):
        # A thing belongs to the part in which its middle lies.
        while at < len(costs) and after[at] - costs[at] / 2 < total * part / parts:
            at += 1
        cuts.append(at)
    return [range(*cut) for cut in zip(cuts, [*cuts[1:], len(costs)], strict=True)]


def own_batches(
    costs: Sequence[float], cut: Callable[[range], list[list[int]]]
) -> Iterator[tuple[list[int], bool]]:
    """Batches of this process's part, and whether they count.

    Every process goes through as many as the one with the most: a model whose gradients or weights
    are spread computes on all processes or on none. Each knows the others' batches, so nobody asks.

    Args:
        costs: of each thing, the same on every process; things that share work stand together.
        cut: cuts a part into batches.
    """
    plans = [cut(part) if part else [] for part in cut_evenly(costs, ranks())]
    for batch in plans[rank()]:
        yield batch, True
    least = min(range(len(costs)), key=lambda i: (costs[i], i)) if costs else 0
    for _ in range(max(map(len, plans)) - len(plans[rank()])):
        yield [least], False


class Parted(Sequence[T]):
    """Everybody's parts one after another; the first reading gathers them, on all processes.

    Args:
        own: this process's part; read when it is gathered.
    """

    def __init__(self, own: Sequence[T]) -> None:
        self._own = own
        self._all: list[T] | None = None

    def whole(self) -> list[T]:
        """All parts."""
        if self._all is None:
            self._all = [item for part in gathered(list(self._own)) for item in part]
        return self._all

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: Any) -> Any:
        """An item, or some."""
        return self.whole()[index]

    def __len__(self) -> int:
        """How many there are in all."""
        return len(self.whole())
