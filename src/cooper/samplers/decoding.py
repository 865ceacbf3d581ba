"""Decoding in slots: what prompts share computed once, finished sequences dropped at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cooper.models.loading import pad_id
from cooper.models.policy import Policy
from cooper.models.row_batch import RowBatch
from cooper.samplers.base import OnGroup
from cooper.samplers.drawing import Drawing, Draws, require_finite
from cooper.samplers.hf import end_token_ids
from cooper.samplers.slots import SlotCache
from cooper.samplers.stopping import StopStrings
from cooper.types import Prompt, SamplingParams


class Decoding:
    """One call's sequences: those waiting, those in slots 0 to n - 1, those done.

    Args:
        policy: that decodes; acting as itself.
        prompts: P prompts.
        group_size: completions a prompt.
        params: temperature and cut-offs.
        seeds: [P * group_size] what each sequence draws by.
        cache_tokens: room for keys and values, in tokens of all sequences at once.
        on_group: see :meth:`cooper.samplers.base.Sampler.sample`.
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
    ) -> None:
        self.policy, self.prompts, self.group_size = policy, prompts, group_size
        self.params, self.on_group = params, on_group
        self.model = cast(Any, policy.model)
        device = policy.model.device
        self.drawing = Drawing(params)
        self.ends = torch.tensor(end_token_ids(policy), device=device)
        self.stops = StopStrings.of(policy.tokenizer, params)
        self.count, limit = len(seeds), params.max_new_tokens
        # By sequence:
        self.seeds = seeds.to(device)
        self.prompt_lengths = torch.tensor(
            [len(prompt.ids) for prompt in prompts for _ in range(group_size)],
            dtype=torch.long,
            device=device,
        )
        self.limits = torch.full_like(self.prompt_lengths, limit)
        self.ids = torch.zeros(self.count, limit, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(self.count, limit, device=device)
        self.lengths = torch.zeros(self.count, dtype=torch.long)
        self.ended = torch.zeros(self.count, dtype=torch.bool)
        self.left = [group_size] * len(prompts)  # sequences of each group that are not done
        # By slot:
        longest = max((len(prompt.ids) for prompt in prompts), default=0) + limit
        self.slots = max(1, min(self.count, cache_tokens // max(longest, 1)))
        layers = policy.model.config.get_text_config().num_hidden_layers
        self.cache = SlotCache(layers, self.slots, longest)
        self.sequence = torch.zeros(0, dtype=torch.long, device=device)
        self.position = torch.zeros(0, dtype=torch.long, device=device)  # of the next token
        self.token = torch.zeros(0, dtype=torch.long, device=device)
        # Groups, or what of one fits into all slots; of similar length, so that prompts pad little.
        part = min(group_size, self.slots)
        self.waiting = deque(
            range(group * group_size + start, group * group_size + min(start + part, group_size))
            for group in sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
            for start in range(0, group_size, part)
        )
        self.checked = False

    def run(self) -> None:
        """Decode everything."""
        while self.waiting or len(self.sequence):
            self.step()

    def step(self) -> None:
        """Decode one token of every sequence in a slot; first let waiting ones in."""
        self._admit()
        if not len(self.sequence):
            return
        self.cache.write_tokens(self.position)
        seen = torch.arange(self.cache.view.longest, device=self.position.device)
        with self._computing():
            logits = self.model(
                input_ids=self.token[:, None],
                position_ids=self.position[:, None],
                attention_mask=self._mask((seen <= self.position[:, None])[:, None, None]),
                past_key_values=self.cache,
                use_cache=True,
            ).logits[:, -1]
        self.position += 1
        self._take(logits, slice(0, len(self.sequence)))

    def _computing(self) -> AbstractContextManager[None]:
        """How the sequences in the slots are computed."""
        return nullcontext()

    def _mask(self, seen: Tensor) -> Tensor:
        """As the model's attention takes it: the eager one adds it to its products."""
        model = self.policy.model
        if model.config.get_text_config()._attn_implementation != "eager":
            return seen
        added = torch.zeros(seen.shape, dtype=model.dtype, device=seen.device)
        return added.masked_fill_(~seen, torch.finfo(model.dtype).min)

    def _admit(self) -> None:
        """Compute the prompts of as many waiting groups as there are free slots for."""
        parts: list[range] = []
        free = len(self.sequence)
        while self.waiting and free + len(self.waiting[0]) <= self.slots:
            parts.append(self.waiting.popleft())
            free += len(parts[-1])
        if parts:
            self._prefill([self.prompts[part[0] // self.group_size].ids for part in parts], parts)

    def _prefill(self, prompts: Sequence[Sequence[int]], parts: Sequence[Sequence[int]]) -> None:
        """Compute prompts, each into the next free slots of its sequences, and draw from them.

        Args:
            prompts: one or more.
            parts: of each prompt, its sequences.
        """
        first, device = len(self.sequence), self.ids.device
        batch = RowBatch.of(self.policy.model, prompts, pad_id(self.policy.tokenizer))
        source = torch.tensor([i for i, part in enumerate(parts) for _ in part], device=device)
        places = pad_sequence(list(batch.places), batch_first=True).to(device)
        slots = torch.arange(first, first + len(source), device=device)
        self.cache.write_prompts(slots, places[source])
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ends = places.gather(1, lengths[:, None] - 1)[:, 0]
        width = batch.given["input_ids"].shape[1]
        kept, which = (ends % width).unique(return_inverse=True)
        logits = self.model(
            **batch.unmasked(), past_key_values=self.cache, use_cache=True, logits_to_keep=kept
        ).logits[ends // width, which]
        if not self.checked:
            require_finite(logits)
            self.checked = True
        new = torch.tensor([i for part in parts for i in part], device=device)
        self.sequence = torch.cat([self.sequence, new])
        self.position = torch.cat([self.position, lengths[source]])
        self.token = torch.cat([self.token, torch.zeros_like(new)])
        self._take(logits[source], slice(first, first + len(source)))

    def _take(self, logits: Tensor, where: slice) -> None:
        """Draw a token for each of some slots, note it, and give up the slots of what ended."""
        sequence = self.sequence[where]
        done = self.position[where] - self.prompt_lengths[sequence]  # tokens drawn before
        tokens, logprobs = self._draw(logits, sequence, done)
        self.ids[sequence, done] = tokens
        self.logprobs[sequence, done] = logprobs
        self.token[where] = tokens
        ended = torch.isin(tokens, self.ends)
        if self.stops is not None:
            stopped = self.stops(self.stops.last_tokens(self.ids, sequence, done))
            ended |= stopped & (sequence < self.count)
        over = ended | (done + 1 == self.limits[sequence])
        if bool(over.any()):
            self._finish(sequence[over], done[over] + 1, ended[over])
            gone = torch.zeros(len(self.sequence), dtype=torch.bool, device=over.device)
            gone[where] = over
            self._close_up(gone)

    def _draw(self, logits: Tensor, sequence: Tensor, done: Tensor) -> Draws:
        """Draw the next token of some sequences, of which so many have been drawn before."""
        return self.drawing(logits, self.seeds[sequence], done)

    def _finish(self, sequence: Tensor, length: Tensor, ended: Tensor) -> None:
        """Note that some sequences are over: their lengths, and whether they ended themselves."""
        rows = sequence.cpu()
        self.lengths[rows], self.ended[rows] = length.cpu(), ended.cpu()
        for group in (rows // self.group_size).tolist():
            self.left[group] -= 1
            if self.left[group] == 0 and self.on_group is not None:
                start = group * self.group_size
                members = range(start, start + self.group_size)
                self.on_group(group, [self._text(i, int(self.lengths[i])) for i in members])

    def _text(self, sequence: int, length: int) -> str:
        """What a sequence says."""
        ids = self.ids[sequence, :length].tolist()
        return str(self.policy.tokenizer.decode(ids, skip_special_tokens=True))

    def _close_up(self, gone: Tensor) -> None:
        """Move the last sequences into the slots of those that are gone."""
        keep = int((~gone).sum())
        holes = gone[:keep].nonzero()[:, 0]
        movers = (~gone[keep:]).nonzero()[:, 0] + keep
        if len(holes):
            self.cache.move(movers, holes)
            for state in (self.sequence, self.position, self.token):
                state[holes] = state[movers]
        self.sequence, self.position, self.token = (
            state[:keep] for state in (self.sequence, self.position, self.token)
        )
