"""Things that hold processes, connections or weights, made once in each process that needs them."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")


class PerProcess(Generic[T]):
    """Makes a thing at its first use in a process, and closes it when the process ends.

    Trainers copy reward functions into other processes: by fork, where threads and pipes of the
    parent are useless, and by pickle (spawn, Ray), which takes neither. What travels is the recipe.

    Args:
        make: the recipe: a class, a function, or a ``functools.partial`` of one. To be sent by
            pickle it has to stand in a module.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self.make = make
        self._forget()

    def _forget(self) -> None:
        self._thing: T | None = None
        self._lock = threading.Lock()
        _ALL.add(self)

    def get(self) -> T:
        """The thing of this process, the same for all its threads."""
        with self._lock:
            thing = self._thing
            if thing is None:
                thing = self._thing = self.make()
                atexit.register(self.close)
            return thing

    def close(self) -> None:
        """Close the thing, if this process made one that can be closed. Another use makes anew."""
        with self._lock:
            thing, self._thing = self._thing, None
        atexit.unregister(self.close)
        close = getattr(thing, "close", None)
        if close is not None:
            close()

    def __getstate__(self) -> dict[str, Any]:
        """The recipe alone."""
        return {"make": self.make}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without a thing."""
        self.make = state["make"]
        self._forget()


# In a forked child the parent's things are of no use, and whoever held a lock may not be there.
_ALL: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()


def _forget_all() -> None:
    for one in list(_ALL):
        one._forget()


os.register_at_fork(after_in_child=_forget_all)


class Together(Generic[Item, Result]):
    """Makes batches of single items that several threads bring at the same time.

    One thread works at a time; what comes meanwhile is the next batch. veRL scores one completion
    a call, in a pool of threads, and a model scores a batch in little more time than one row.

    Args:
        work: takes a batch and gives as many results, in order.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        self.work = work
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._adding, self._working = threading.Lock(), threading.Lock()

    def __call__(self, item: Item) -> Result:
        """Give an item's result; an error of its batch is raised for each item."""
        future: Future[Result] = Future()
        with self._adding:
            self._waiting.append((item, future))
        with self._working:  # whoever comes in finds the own item done, or does it with the others
            with self._adding:
                batch, self._waiting = self._waiting, []
            if batch:
                self._do(batch)
        return future.result()

    def _do(self, batch: list[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self.work([item for item, _ in batch])
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
