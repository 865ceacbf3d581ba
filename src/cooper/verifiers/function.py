"""A verifier made of a function of the user's own, for tasks that are no mathematics."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, cast

from cooper.types import Status, Verdict
from cooper.verifiers.base import check_lengths
from cooper.verifiers.pool import Reply, mapped
from cooper.verifiers.pooled import PooledVerifier

__all__ = ["FunctionVerifier"]


class FunctionVerifier(PooledVerifier):
    """Asks a function ``same(completion, reference) -> bool | None``; None is UNDECIDED.

    The function runs in worker processes that can be killed, so that it may be slow, hang or crash
    on what a policy writes: such an item is UNDECIDED with its reason. It is named, and not given,
    because it has to be imported there.
    """

    def __init__(
        self,
        function: str,
        cpu_seconds: float = 5.0,
        wall_seconds: float = 60.0,
        workers: int = 1,
        memory_mb: int = 2048,
    ) -> None:
        """Set up; no process is started yet.

        Args:
            function: its dotted name, such as ``my_project.checks.same_city``.
            cpu_seconds: CPU time for one completion, in seconds; beyond it UNDECIDED.
            wall_seconds: wall-clock time for one completion, in seconds.
            workers: number of worker processes.
            memory_mb: address space of a worker in MiB.

        Raises:
            ValueError: the name cannot be imported or is no function, or a limit is not positive.
        """
        _find(function)
        self.function = function
        super().__init__(
            f"{__name__}:prepare_worker",
            cpu_seconds=cpu_seconds,
            wall_seconds=wall_seconds,
            workers=workers,
            memory_mb=memory_mb,
        )

    def submit(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> Future[list[Verdict]]:
        """Verify a batch in the workers and return at once; see :meth:`Verifier.submit`."""
        check_lengths(completions, references, questions)
        items = [[self.function, c, r] for c, r in zip(completions, references, strict=True)]

        def finish(replies: list[Reply]) -> list[Verdict]:
            return [_verdict(reply) for reply in replies]

        return mapped(self._pool.submit(items), finish)


def _verdict(reply: Reply) -> Verdict:
    if not reply.ok:
        return Verdict(Status.UNDECIDED, reply.failure)
    if reply.value is None:
        return Verdict(Status.UNDECIDED, "the function cannot tell")
    if not isinstance(reply.value, bool):
        return Verdict(Status.UNDECIDED, "the function gave neither true, false nor None")
    return Verdict(Status.CORRECT if reply.value else Status.INCORRECT, "by the function")


def _find(name: str) -> Callable[[str, str], bool | None]:
    """Import a function by its dotted name.

    Raises:
        ValueError: there is none.
    """
    module, _, attribute = str(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"function={name}: cannot be imported ({error}); give a dotted name that Python can "
            "import from here"
        ) from error
    if not callable(found):
        raise ValueError(f"function={name}: is no function; name one of two texts")
    return cast("Callable[[str, str], bool | None]", found)


def prepare_worker() -> Callable[[Any], Any]:
    """Return what a worker applies to [function's name, completion, reference]."""
    find = functools.cache(_find)

    def ask(item: list[str]) -> Any:
        name, completion, reference = item
        value = find(name)(completion, reference)
        return value if isinstance(value, bool) or value is None else "other"

    return ask
