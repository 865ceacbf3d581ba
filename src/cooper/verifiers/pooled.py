"""What verifiers share that work in killable processes."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from cooper.types import Verdict
from cooper.verifiers.base import Verifier
from cooper.verifiers.pool import WorkerPool


class PooledVerifier(Verifier):
    """A verifier over a :class:`~cooper.verifiers.pool.WorkerPool`; subclasses submit to it."""

    def __init__(
        self, factory: str, *, cpu_seconds: float, wall_seconds: float, workers: int, memory_mb: int
    ) -> None:
        """Set up; no process is started yet.

        Args:
            factory: as the pool takes it.
            cpu_seconds: CPU time of one item, in seconds.
            wall_seconds: wall-clock time of one item, in seconds.
            workers: number of worker processes.
            memory_mb: address space of a worker in MiB.

        Raises:
            ValueError: a limit is not positive.
        """
        self._pool = WorkerPool(
            factory,
            cpu_seconds=cpu_seconds,
            wall_seconds=wall_seconds,
            workers=workers,
            memory_mb=memory_mb,
        )
        # The pool's threads keep the pool alive, so it cannot notice by itself that it is dropped.
        weakref.finalize(self, self._pool._stop)

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """Verify a batch; see :meth:`Verifier.verify`."""
        return self.submit(completions, references, questions).result()

    @abstractmethod
    def submit(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> Future[list[Verdict]]:
        """Verify a batch in the workers and return at once; see :meth:`Verifier.submit`.

        Raises:
            RuntimeError: the verifier was closed.
        """

    def close(self) -> None:
        """End the worker processes. May be called twice."""
        self._pool.close()
        super().close()
