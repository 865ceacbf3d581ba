"""Rollouts of a policy in one batch with what its start writes meanwhile.

For the last sequences of a batch each step reads all weights for a few rows. What the same base has
to write beside them joins: its rows cost their products, and no reading of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.functional import pad

from cooper.models.policy import Policy
from cooper.samplers.base import OnGroup
from cooper.samplers.decoding import Decoding
from cooper.samplers.drawing import Drawing, Draws
from cooper.samplers.guests import Guest, Guests
from cooper.tracing import span
from cooper.types import Prompt, SamplingParams

EVERY = 8  # tokens from one time that guests are asked for to the next
TAIL = 0.25  # of the policy's sequences are left when guests come in: more are a full batch


class MixedDecoding(Decoding):
    """Decodes a policy's sequences, and in the slots that these leave its guests'.

    What a sequence of the policy draws is what it draws without guests, up to the order of sums.

    Args:
        policy: as for :class:`~cooper.samplers.decoding.Decoding`; its weights mix with those of
            its start.
        prompts: likewise.
        group_size: likewise.
        params: likewise.
        seeds: likewise.
        cache_tokens: likewise.
        on_group: likewise.
        guests: asked every few tokens who joins, and once more when the policy's own are done.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        seeds: Tensor,
        cache_tokens: int,
        on_group: OnGroup | None,
        guests: Guests,
    ) -> None:
        super().__init__(policy, prompts, group_size, params, seeds, cache_tokens, on_group)
        self.guests, self.cache_tokens = guests, cache_tokens
        self.guests_drawing, self.limit = Drawing(guests.params), guests.params.max_new_tokens
        more = max(self.limit - params.max_new_tokens, 0)
        self.ids, self.logprobs = pad(self.ids, (0, more)), pad(self.logprobs, (0, more))
        self.coming: deque[Guest] = deque()
        self.ended_since: dict[int, str] = {}  # of the policy's, since the guests were last asked
        self.beside = 0  # guests in slots

    def run(self) -> None:
        """Decode the policy's sequences and who joins them, then the guests that are left."""
        steps = 0
        while self.waiting or len(self.sequence) > self.beside:
            if steps % EVERY == 0:
                self._ask(last=False)
            self._let_in()
            self.step()
            steps += 1
        self._ask(last=True)
        with span("guests alone", joined=self.beside, coming=len(self.coming)):
            while self.coming or len(self.sequence):
                self._let_in()
                self.step()

    def _ask(self, last: bool) -> None:
        """Tell the guests what has ended, and note who joins."""
        ended, self.ended_since = self.ended_since, {}
        self.coming.extend(self.guests.joining(ended, last))

    def _let_in(self) -> None:
        """Compute the prompts of as many guests as there is room for, behind the policy's own."""
        used = len(self.sequence)
        if self.waiting or used - self.beside > TAIL * self.count or not self.coming:
            return
        tokens, entering = self.cache.view.tokens, []
        while self.coming:
            needed = max(tokens, len(self.coming[0].prompt) + self.limit)
            count = used + len(entering) + 1
            if count > 1 and count * needed > self.cache_tokens:
                break
            entering.append(self.coming.popleft())
            tokens = needed
        if not entering:
            return
        count = used + len(entering)
        if tokens > self.cache.view.tokens or count > self.slots:
            # A little longer than needed, for the next ones, where there is room for it. As many
            # slots as are needed now: the next ones take those of the sequences that end meanwhile.
            tokens = max(tokens, min(tokens + tokens // 4, self.cache_tokens // count))
            self.slots = count
            self.cache.resize(self.slots, tokens, self.position)
        with span("join", count=len(entering)), self._as_start():
            self.beside += len(entering)
            first = self._add(entering)
            numbers = range(first, first + len(entering))
            self._prefill([guest.prompt for guest in entering], [[number] for number in numbers])

    def _add(self, guests: Sequence[Guest]) -> int:
        """Make places for the sequences of guests, behind all others; give the first."""
        first, many = len(self.seeds), (0, len(guests))

        def added(state: Tensor, values: Sequence[int]) -> Tensor:
            return torch.cat([state, torch.tensor(values, device=state.device)])

        self.seeds = added(self.seeds, [guest.seed for guest in guests])
        self.prompt_lengths = added(self.prompt_lengths, [len(guest.prompt) for guest in guests])
        self.limits = added(self.limits, [self.limit] * len(guests))
        self.ids, self.logprobs = pad(self.ids, (0, 0, *many)), pad(self.logprobs, (0, 0, *many))
        return first

    def _as_start(self) -> AbstractContextManager[None]:
        start = self.policy.weights.start()
        assert start is not None
        return start

    def _computing(self) -> AbstractContextManager[None]:
        """See the base class."""
        if not self.beside:
            return nullcontext()
        if self.beside == len(self.sequence):
            return self._as_start()
        return self.policy.weights.partly(self.sequence < self.count)

    def _draw(self, logits: Tensor, sequence: Tensor, done: Tensor) -> Draws:
        """See the base class; guests draw under their own settings."""
        if not self.beside:
            return super()._draw(logits, sequence, done)
        tokens, logprobs = torch.empty_like(sequence), torch.empty(len(sequence)).to(logits.device)
        own = sequence < self.count
        for drawing, rows in ((self.drawing, own), (self.guests_drawing, ~own)):
            where = rows.nonzero()[:, 0]
            tokens[where], logprobs[where] = drawing(
                logits[where], self.seeds[sequence[where]], done[where]
            )
        return tokens, logprobs

    def _finish(self, sequence: Tensor, length: Tensor, ended: Tensor) -> None:
        """See the base class; the guests get what they wrote."""
        own = sequence < self.count
        super()._finish(sequence[own], length[own], ended[own])
        for one, tokens, whole in zip(
            sequence.tolist(), length.tolist(), ended.tolist(), strict=True
        ):
            if one < self.count:
                self.ended_since[one] = self._text(one, tokens)
            else:
                self.beside -= 1
                self.guests.answered(one - self.count, self._text(one, tokens), whole)
