"""Verification beside other work: groups are handed over as they end, verdicts read when needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import overload

from cooper.tracing import span
from cooper.types import Problem, Rollouts, Verdict
from cooper.verifiers.base import Verifier

Part = tuple[Sequence[int], "Future[list[Verdict]]"]  # rollouts, and their verdicts in that order


class PendingVerdicts(Sequence[Verdict]):
    """[N] verdicts of which some are still being computed; reading any waits for all.

    Args:
        count: N.
        parts: each verdict in one of them.
    """

    def __init__(self, count: int, parts: Sequence[Part]) -> None:
        self._count, self._parts = count, parts

    def __len__(self) -> int:
        """N; does not wait."""
        return self._count

    @overload
    def __getitem__(self, row: int) -> Verdict: ...

    @overload
    def __getitem__(self, row: slice) -> list[Verdict]: ...

    def __getitem__(self, row: int | slice) -> Verdict | list[Verdict]:
        """Wait, then give one verdict or several.

        Raises:
            Exception: whatever the verifier raised.
        """
        return self._verdicts[row]

    @cached_property
    def _verdicts(self) -> list[Verdict]:
        by_row: dict[int, Verdict] = {}
        try:
            for rows, future in self._parts:
                by_row.update(zip(rows, future.result(), strict=True))
        except BaseException:
            cancel(self._parts)
            raise
        return [by_row[row] for row in range(self._count)]


class Verification:
    """The verification of one draw, begun while it is drawn.

    The verdicts are those of the completions in the rollouts, whatever a sampler told before and in
    whichever order: a group that it did not tell, or told otherwise, is handed over at the end.

    Args:
        verifier: whom to ask; its :attr:`~cooper.verifiers.Verifier.whole_batches` decides whether
            groups are handed over one by one, or all at the end.
        problems: [P] that are drawn for.
    """

    def __init__(self, verifier: Verifier, problems: Sequence[Problem]) -> None:
        self.verifier, self.problems = verifier, problems
        self._begun: dict[int, tuple[list[str], Future[list[Verdict]]]] = {}

    def on_group(self, index: int, completions: Sequence[str]) -> None:
        """Hand a problem's completions over; a sampler calls it as soon as they are all there."""
        if not self.verifier.whole_batches:
            texts, problem = list(completions), self.problems[index]
            asked = [problem.reference] * len(texts), [problem.question] * len(texts)
            with span("hand over", problem=index):
                self._begun[index] = texts, self.verifier.submit(texts, *asked)

    def verdicts(self, rollouts: Rollouts) -> PendingVerdicts:
        """Hand over what is missing, all of it as one batch; does not wait.

        Args:
            rollouts: what was drawn for `problems`.
        """
        parts: list[Part] = []
        missing: list[int] = []
        for index, rows in enumerate(rollouts.groups):
            texts, future = self._begun.pop(index, ([], None))
            if future is not None and texts == [rollouts.completions[row] for row in rows]:
                parts.append((rows, future))
            else:
                missing += rows
        if missing:
            references, questions = rollouts.references, rollouts.questions
            future = self.verifier.submit(
                [rollouts.completions[row] for row in missing],
                [references[row] for row in missing],
                [questions[row] for row in missing],
            )
            parts.append((missing, future))
        return PendingVerdicts(len(rollouts), parts)

    def cancel(self) -> None:
        """Give up what has not begun: nothing was drawn in the end."""
        cancel([([], future) for _, future in self._begun.values()])


def cancel(parts: Sequence[Part]) -> None:
    """Give up what has not begun; what has, ends by itself and nobody waits for it."""
    for _, future in parts:
        future.cancel()
