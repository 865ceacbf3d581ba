"""Verification beside other work: handed over as it is drawn, verdicts read when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import overload

from cooper.tracing import span
from cooper.types import Problem, Rollouts, Verdict
from cooper.verifiers.base import Verifier

Verdicts = Future[list[Verdict]]
# Rollouts, and their verdicts in that order; None: a verdict that is of no rollout.
Part = tuple[Sequence[int | None], Verdicts]
Place = tuple[int, int]  # a problem, and which of its completions


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
                for row, verdict in zip(rows, future.result(), strict=True):
                    if row is not None:
                        by_row[row] = verdict
        except BaseException:
            cancel(self._parts)
            raise
        return [by_row[row] for row in range(self._count)]


class Verification:
    """The verification of one draw, begun while it is drawn.

    The verdicts are those of the completions in the rollouts, whatever a sampler told before and in
    whichever order: what it did not tell, or told otherwise, is handed over at the end.

    Args:
        verifier: whom to ask; its :attr:`~cooper.verifiers.Verifier.whole_batches` decides whether
            completions are handed over in parts, or all at the end.
        problems: [P] that are drawn for.
    """

    def __init__(self, verifier: Verifier, problems: Sequence[Problem]) -> None:
        self.verifier, self.problems = verifier, problems
        self._begun: list[tuple[dict[Place, str], Verdicts]] = []
        self._batch_of: dict[Place, int] = {}

    def on_group(self, index: int, completions: Sequence[str]) -> None:
        """Hand a problem's completions over; a sampler calls it as soon as they are all there."""
        self.hand_over({(index, member): text for member, text in enumerate(completions)})

    def hand_over(self, completions: Mapping[Place, str]) -> None:
        """Hand some completions over as one batch, but for those that have been."""
        new = {place: text for place, text in completions.items() if place not in self._batch_of}
        if self.verifier.whole_batches or not new:
            return
        asked = [self.problems[index] for index, _ in new]
        with span("hand over", completions=len(new)):
            future = self.verifier.submit(
                list(new.values()),
                [problem.reference for problem in asked],
                [problem.question for problem in asked],
            )
        self._batch_of.update(dict.fromkeys(new, len(self._begun)))
        self._begun.append((new, future))

    def verdict(self, place: Place) -> Verdict:
        """Wait for the verdict on a completion that has been handed over.

        Raises:
            Exception: whatever the verifier raised.
        """
        texts, future = self._begun[self._batch_of[place]]
        return dict(zip(texts, future.result(), strict=True))[place]

    def verdicts(self, rollouts: Rollouts) -> PendingVerdicts:
        """Hand over what is missing, all of it as one batch; does not wait.

        Args:
            rollouts: what was drawn for `problems`.
        """
        row_of = {
            (index, member): row
            for index, rows in enumerate(rollouts.groups)
            for member, row in enumerate(rows)
        }
        texts = rollouts.completions
        parts: list[Part] = []
        for told, future in self._begun:
            rows = [row_of.get(place) for place in told]
            for at, (row, text) in enumerate(zip(rows, told.values(), strict=True)):
                if row is not None and texts[row] != text:
                    rows[at] = None
            parts.append((rows, future))
        known = {row for rows, _ in parts for row in rows}
        missing = [row for row in range(len(rollouts)) if row not in known]
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
        cancel([([], future) for _, future in self._begun])


def cancel(parts: Sequence[Part]) -> None:
    """Give up what has not begun; what has, ends by itself and nobody waits for it."""
    for _, future in parts:
        future.cancel()
