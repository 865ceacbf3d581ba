"""Rollouts by the policy's own module, in slots of one cache."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence

import torch
from torch import nn

from cooper.errors import CooperError
from cooper.models.evaluating import evaluating
from cooper.models.policy import Policy
from cooper.models.token_scores import vocabulary
from cooper.samplers.base import OnGroup, Sampler, pack_rollouts
from cooper.samplers.decoding import Decoding
from cooper.samplers.drawing import sequence_seeds
from cooper.samplers.guests import Guests
from cooper.samplers.hf import HFSampler
from cooper.samplers.mixed_decoding import MixedDecoding
from cooper.samplers.probe import differences, most_apart
from cooper.samplers.slots import has_slots
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
        sequence_seeds(first, own)
        sequence_seeds(of, generator)
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
        return self._draw(prompts, group_size, params, generator, on_group, None)

    def sample_with(
        self,
        guests: Guests,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        generator: torch.Generator,
        on_group: OnGroup | None = None,
    ) -> Rollouts:
        """See the base class; they join where the policy's weights mix with its start's."""
        return self._draw(prompts, group_size, params, generator, on_group, guests)

    def _draw(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        generator: torch.Generator,
        on_group: OnGroup | None,
        guests: Guests | None,
    ) -> Rollouts:
        if self._policy is None:
            raise RuntimeError("the sampler has no policy yet: call sync(policy, version) first")
        if self._other is not None:
            return self._other.sample(prompts, group_size, params, generator, on_group)
        return _sample(
            self._policy, prompts, group_size, params, generator,
            self.cache_tokens, on_group, self._version, guests,
        )  # fmt: skip


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
    guests: Guests | None = None,
) -> Rollouts:
    seeds = sequence_seeds(len(prompts) * group_size, generator)
    given = policy, prompts, group_size, params, seeds, cache_tokens, on_group
    with policy.acting(), evaluating(policy.model):
        if guests is not None and policy.weights.mixes:
            decoding = MixedDecoding(*given, guests)
        else:
            decoding = Decoding(*given)
        decoding.run()
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
