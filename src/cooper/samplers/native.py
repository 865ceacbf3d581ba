"""Rollouts without waste: what prompts share computed once, finished sequences dropped at once."""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cooper.errors import CooperError
from cooper.models.evaluating import evaluating
from cooper.models.loading import pad_id
from cooper.models.policy import Policy
from cooper.models.row_batch import RowBatch
from cooper.models.token_scores import vocabulary
from cooper.samplers.base import OnGroup, Sampler, pack_rollouts
from cooper.samplers.drawing import draw, require_finite, uniforms, warpers
from cooper.samplers.hf import HFSampler, end_token_ids
from cooper.samplers.probe import differences, most_apart
from cooper.samplers.slots import SlotCache, has_slots
from cooper.samplers.stopping import StopStrings
from cooper.types import Problem, Prompt, Rollouts, SamplingParams


class NativeSampler(Sampler):
    """Decodes with a cache of slots.

    A group's prompt is computed once, and so is what several prompts begin with. A sequence that
    ends leaves the batch with its token, and when a group's worth of slots is free the next one
    comes in. What a sequence draws depends on the generator and its place among the sequences, not
    on the slots: fewer of them change the order of sums alone.

    Models whose layers do not all attend to the whole sequence, or of which a few tokens come out
    otherwise in slots, are left to :class:`HFSampler`, which a warning says once.

    Args:
        cache_tokens: room for keys and values, in tokens of all sequences at once; at least one
            sequence is decoded whatever it says.
    """

    def __init__(self, cache_tokens: int = 262_144) -> None:
        if cache_tokens < 1:
            raise ValueError(f"sampler.cache_tokens={cache_tokens}: at least 1")
        self.cache_tokens = cache_tokens
        self._policy: Policy | None = None
        self._version = -1
        self._other: HFSampler | None = None
        self._fits: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()

    def part(self, generator: torch.Generator, first: int, of: int) -> torch.Generator:
        """See the base class; several processes draw what one would."""
        own = generator.clone_state()
        _seeds(first, own)
        _seeds(of, generator)
        return own

    def sync(self, policy: Policy, version: int) -> None:
        """Decode with the policy's own module: nothing to copy."""
        self._policy, self._version, self._other = policy, version, None
        if not self._can_decode(policy):
            self._other = HFSampler()
            self._other.sync(policy, version)

    def _can_decode(self, policy: Policy) -> bool:
        """Whether a model can be decoded in slots; a few tokens of the first sync show it."""
        if policy.model not in self._fits:
            reason = _why_not(policy, self.cache_tokens)
            if reason:
                warnings.warn(
                    f"sampler=native: {type(policy.model).__name__} {reason}; sampling by "
                    "transformers' generate instead",
                    stacklevel=3,
                )
            self._fits[policy.model] = not reason
        return self._fits[policy.model]

    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        generator: torch.Generator,
        on_group: OnGroup | None = None,
    ) -> Rollouts:
        """See :meth:`cooper.samplers.base.Sampler.sample`."""
        if self._policy is None:
            raise RuntimeError("the sampler has no policy yet: call sync(policy, version) first")
        if self._other is not None:
            return self._other.sample(prompts, group_size, params, generator, on_group)
        return _sample(
            self._policy, prompts, group_size, params, generator,
            self.cache_tokens, on_group, self._version,
        )  # fmt: skip


def _seeds(count: int, generator: torch.Generator) -> Tensor:
    """[count] what each sequence draws by, one number of the generator each."""
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator)


@torch.no_grad()
def _sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    group_size: int,
    params: SamplingParams,
    generator: torch.Generator,
    cache_tokens: int,
    on_group: OnGroup | None,
    version: int,
) -> Rollouts:
    count = len(prompts) * group_size
    seeds = _seeds(count, generator)
    with policy.acting(), evaluating(policy.model):
        decoding = _Decoding(policy, prompts, group_size, params, seeds, cache_tokens, on_group)
        while decoding.step():
            pass
    lengths = decoding.lengths.tolist()
    ids, logprobs = decoding.ids.cpu(), decoding.logprobs.cpu()
    return pack_rollouts(
        prompts,
        group_size,
        [ids[i, :length].clone() for i, length in enumerate(lengths)],
        [logprobs[i, :length].clone() for i, length in enumerate(lengths)],
        decoding.ended.tolist(),
        policy,
        version,
    )


def _why_not(policy: Policy, cache_tokens: int) -> str:
    """Why a model cannot be decoded in slots, or nothing.

    Raises:
        CooperError: nothing can be drawn from it at all.
    """
    if not has_slots(policy.model):
        return "has layers that do not attend to the whole sequence"
    size, params = vocabulary(policy.model), SamplingParams(4)
    prompts = [
        Prompt(Problem("", "", ""), "", tuple((7 * i + 3) % size for i in range(length)))
        for length in (9, 4)
    ]
    seed = torch.Generator().manual_seed(0)
    try:
        rollouts = _sample(policy, prompts, 2, params, seed, cache_tokens, None, 0)
        # Here nothing is cut, so every token must agree; in 16 bits they do on average.
        found, limit = differences(policy, rollouts, params), most_apart(policy)
        difference = float(found.max() if limit < 0.01 else found.mean())
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as problem:
        if isinstance(problem, CooperError):
            raise
        return f"takes no slots ({type(problem).__name__}: {str(problem).splitlines()[0]})"
    if not difference <= max(limit, 1e-3):
        return f"computes otherwise in slots (log-probabilities differ by {difference:.2g})"
    return ""


class _Decoding:
    """One call's sequences: those waiting, those in slots 0 to n - 1, those done."""

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
        self.warpers = warpers(params)
        self.ends = torch.tensor(end_token_ids(policy), device=device)
        self.stops = StopStrings.of(policy.tokenizer, params)
        count, limit = len(seeds), params.max_new_tokens
        # By sequence:
        self.seeds = seeds.to(device)
        self.prompt_lengths = torch.tensor(
            [len(prompt.ids) for prompt in prompts for _ in range(group_size)], device=device
        )
        self.ids = torch.zeros(count, limit, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(count, limit, device=device)
        self.lengths = torch.zeros(count, dtype=torch.long)
        self.ended = torch.zeros(count, dtype=torch.bool)
        self.left = [group_size] * len(prompts)  # sequences of each group that are not done
        # By slot:
        longest = max((len(prompt.ids) for prompt in prompts), default=0) + limit
        self.slots = max(1, min(count, cache_tokens // max(longest, 1)))
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

    def step(self) -> bool:
        """Decode one token of every sequence in a slot; first let waiting ones in.

        Returns:
            whether anything is left.
        """
        self._admit()
        if not len(self.sequence):
            return bool(self.waiting)
        self.cache.write_tokens(self.position)
        seen = torch.arange(self.cache.view.longest, device=self.position.device)
        logits = self.model(
            input_ids=self.token[:, None],
            position_ids=self.position[:, None],
            attention_mask=self._mask((seen <= self.position[:, None])[:, None, None]),
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.position += 1
        self._take(logits, slice(0, len(self.sequence)))
        return bool(self.waiting) or bool(len(self.sequence))

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
        first = free = len(self.sequence)
        while self.waiting and free + len(self.waiting[0]) <= self.slots:
            parts.append(self.waiting.popleft())
            free += len(parts[-1])
        if not parts:
            return
        device = self.ids.device
        owners = [part[0] // self.group_size for part in parts]
        prompts = [self.prompts[owner].ids for owner in owners]
        batch = RowBatch.of(self.policy.model, prompts, pad_id(self.policy.tokenizer))
        source = torch.tensor([i for i, part in enumerate(parts) for _ in part], device=device)
        places = pad_sequence(list(batch.places), batch_first=True).to(device)
        self.cache.write_prompts(torch.arange(first, free, device=device), places[source])
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
        self._take(logits[source], slice(first, free))

    def _take(self, logits: Tensor, where: slice) -> None:
        """Draw a token for each of some slots, note it, and give up the slots of what ended."""
        sequence = self.sequence[where]
        done = self.position[where] - self.prompt_lengths[sequence]  # tokens drawn before
        greedy = self.params.temperature == 0
        chance = None if greedy else uniforms(self.seeds[sequence], done)
        tokens, logprobs = draw(logits, self.warpers, chance)
        self.ids[sequence, done] = tokens
        self.logprobs[sequence, done] = logprobs
        self.token[where] = tokens
        ended = torch.isin(tokens, self.ends)
        if self.stops is not None:
            ended |= self.stops(self.stops.last_tokens(self.ids, sequence, done))
        over = ended | (done + 1 == self.params.max_new_tokens)
        if bool(over.any()):
            self._finish(sequence[over], done[over] + 1, ended[over])
            gone = torch.zeros(len(self.sequence), dtype=torch.bool, device=over.device)
            gone[where] = over
            self._close_up(gone)

    def _finish(self, sequence: Tensor, length: Tensor, ended: Tensor) -> None:
        rows = sequence.cpu()
        self.lengths[rows], self.ended[rows] = length.cpu(), ended.cpu()
        for group in (rows // self.group_size).tolist():
            self.left[group] -= 1
            if self.left[group] == 0 and self.on_group is not None:
                start = group * self.group_size
                texts = [
                    str(self.policy.tokenizer.decode(ids, skip_special_tokens=True))
                    for ids in (
                        self.ids[i, : int(self.lengths[i])].tolist()
                        for i in range(start, start + self.group_size)
                    )
                ]
                self.on_group(group, texts)

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
