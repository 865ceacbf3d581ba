"""The contract of a verifier."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cooper.tracing import span
from cooper.types import Verdict

_STARTING = threading.Lock()  # two threads that submit at once start one executor


class Verifier(ABC):
    """Says of each completion whether its answer equals the reference.

    The contract, checked for every shipped verifier by ``tests/contracts``:

    * it returns one :class:`~cooper.types.Verdict` per completion, in order;
    * it never raises on any text, executes none of it, and spends bounded time and memory on it;
    * it works in any thread, and on empty lists;
    * what it cannot tell (time-out, unparsable reference, its own failure) is UNDECIDED with a
      reason; a completion without an answer is INCORRECT.

    Attributes:
        whole_batches: whether a step's completions have to come as one batch. False: they may
            come in parts while others are still being drawn. True for a verifier whose limits
            hold for a batch, or whose verdicts depend on what else stands in it.
    """

    whole_batches: bool = False

    @abstractmethod
    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """Verify a batch.

        Args:
            completions: [N] texts as the policy wrote them.
            references: [N] reference answers.
            questions: [N] questions; only verifiers that read them (a judge) need them.

        Returns:
            [N] verdicts in the order of `completions`.

        Raises:
            ValueError: the lists differ in length.
        """

    def submit(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> Future[list[Verdict]]:
        """Start :meth:`verify` and return at once, so that other work goes on meanwhile."""
        with _STARTING:
            if not hasattr(self, "_executor"):
                self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="verifier")
        return self._executor.submit(self._traced, completions, references, questions)

    def _traced(self, completions: Sequence[str], *others: Any) -> list[Verdict]:
        with span("verify", completions=len(completions)):
            return self.verify(completions, *others)

    def close(self) -> None:
        """Give threads and processes back. The verifier is not used afterwards."""
        if hasattr(self, "_executor"):
            self._executor.shutdown(wait=True, cancel_futures=True)
            del self._executor


def check_lengths(
    completions: Sequence[str], references: Sequence[str], questions: Sequence[str] | None
) -> None:
    """Raise one clear error when the lists of a batch do not belong together.

    Raises:
        ValueError: the lists differ in length, or a single string was given in a list's place.
    """
    for name, texts in (("completions", completions), ("references", references)):
        if isinstance(texts, str):
            raise ValueError(f"{name} is one string; give a list of strings")
    if len(completions) != len(references):
        raise ValueError(
            f"{len(completions)} completions but {len(references)} references: "
            "give one reference for each completion"
        )
    if questions is not None and len(questions) != len(completions):
        raise ValueError(
            f"{len(completions)} completions but {len(questions)} questions: "
            "give one question for each completion, or None"
        )
