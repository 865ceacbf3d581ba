"""The first negatives of a step's pairs, written in the batch that draws its rollouts.

A pair needs one verified-correct completion, not its whole group: which one is chosen is known as
soon as those that come before it, in an order fixed beforehand, have ended and are verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from cooper.negatives.base import Rewriter
from cooper.samplers.drawing import sequence_seeds
from cooper.samplers.guests import Guest, Guests
from cooper.tracing import span
from cooper.types import Negative
from cooper.verifiers.pending import Verification


@dataclass(frozen=True)
class Begun:
    """What of a step's pairs was there when its rollouts were."""

    chosen: dict[int, list[int]] = field(default_factory=dict)  # rollouts, by problem
    negatives: dict[int, Negative] = field(default_factory=dict)  # for them: the first proposals


class EarlyPairs(Guests):
    """Chooses a problem's correct completions while others are drawn, and has them rewritten.

    Completions are handed to the verifier when the sampler asks, and read when it asks again: so
    the verifier has that long, and if it takes longer it is waited for. Nothing depends on when a
    verdict comes.

    Args:
        rewriter: what is asked, and how an answer is read.
        choose: of a problem's correct completions the first ones in this order; "random": each is
            as likely to be chosen as any.
        per_problem: completions chosen of a problem at most.
        verification: of the rollouts being drawn.
        group_size: rollouts of each problem; places among all count group by group.
        generator: source of all chance; advanced if anybody asks.
    """

    def __init__(
        self,
        rewriter: Rewriter,
        choose: Literal["random", "first", "shortest"],
        per_problem: int,
        verification: Verification,
        group_size: int,
        generator: torch.Generator,
    ) -> None:
        self.rewriter, self.params = rewriter, rewriter.params
        self.choose, self.per_problem = choose, per_problem
        self.verification, self.problems = verification, verification.problems
        self.group_size = group_size
        self.generator = generator
        self.begun = Begun()
        self._orders: list[list[int]] = []  # of each problem's rollouts, but for "shortest"
        self._seeds: list[int] = []  # of each problem's guests
        self._texts: dict[int, str] = {}  # handed over
        self._asked: list[int] = []  # of each guest, the rollout that was chosen

    def joining(self, ended: Mapping[int, str], last: bool) -> list[Guest]:
        """See the base class."""
        if not self._seeds:
            self._draw()
        readable = set(self._texts)
        self._texts.update(ended)
        self.verification.hand_over({self._place(i): text for i, text in ended.items()})
        if last:
            readable = set(self._texts)
        guests: list[Guest] = []
        for problem in range(len(self.problems)):
            if problem not in self.begun.chosen:
                chosen = self._chosen(problem, readable)
                if chosen is not None:
                    self.begun.chosen[problem] = chosen
                    guests += self._guests(problem, chosen)
        return guests

    def answered(self, guest: int, text: str, finished: bool) -> None:
        """See the base class."""
        chosen = self._asked[guest]
        self.begun.negatives[chosen] = self.rewriter.answered(self._texts[chosen], text, finished)

    def _draw(self) -> None:
        """All chance at once, so that it does not matter who ends first."""
        starts = [problem * self.group_size for problem in range(len(self.problems))]
        orders = [list(range(start, start + self.group_size)) for start in starts]
        if self.choose == "random":
            for order in orders:
                places = torch.randperm(len(order), generator=self.generator).tolist()
                order[:] = [order[place] for place in places]
        self._orders = orders
        count = len(self.problems) * self.per_problem
        self._seeds = sequence_seeds(count, self.generator).tolist()

    def _chosen(self, problem: int, readable: set[int]) -> list[int] | None:
        """The rollouts chosen of a problem; None: that is not known yet."""
        order = self._orders[problem]
        if self.choose == "shortest":
            if not readable.issuperset(order):
                return None
            order = sorted(order, key=lambda i: len(self._texts[i]))
        chosen: list[int] = []
        for rollout in order:
            if len(chosen) == self.per_problem:
                break
            if rollout not in readable:
                return None
            with span("early verdict", rollout=rollout):
                verdict = self.verification.verdict(self._place(rollout))
            if verdict.correct:
                chosen.append(rollout)
        return chosen

    def _guests(self, problem: int, chosen: Sequence[int]) -> list[Guest]:
        """Those that ask for the rewriting of what was chosen."""
        guests: list[Guest] = []
        for number, rollout in enumerate(chosen):
            prompt = self.rewriter.ask(self.problems[problem], self._texts[rollout])
            if prompt is None:
                self.begun.negatives[rollout] = Negative(None, "assistant")
                continue
            seed = self._seeds[problem * self.per_problem + number]
            guests.append(Guest(prompt.ids, seed))
            self._asked.append(rollout)
        return guests

    def _place(self, rollout: int) -> tuple[int, int]:
        return divmod(rollout, self.group_size)
