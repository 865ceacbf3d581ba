"""The contract of a sampler, and how its results become ragged rollouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cooper.models.policy import Policy
from cooper.rng import forked
from cooper.samplers.guests import Guests
from cooper.types import Prompt, Rollouts, SamplingParams

OnGroup = Callable[[int, Sequence[str]], None]


class Sampler(ABC):
    """Draws completions from the policy.

    The contract, checked for every shipped sampler by ``tests/contracts``:

    * rollouts of one prompt stand side by side, prompts in the order given;
    * a completion's tokens end with an end-of-sequence token or the token that completes a stop
      string, both kept, or at the length limit;
    * ``logprobs`` are those of the distribution drawn from, after temperature, top-k and top-p;
    * all chance comes from the generator given: the same state draws the same rollouts;
    * an empty list of prompts is legal.
    """

    @abstractmethod
    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        generator: torch.Generator,
        on_group: OnGroup | None = None,
    ) -> Rollouts:
        """Draw `group_size` completions for each prompt.

        Args:
            prompts: P prompts.
            group_size: completions a prompt.
            params: temperature and cut-offs.
            generator: source of all chance; advanced.
            on_group: called with (prompt index, its completions) as soon as a prompt's completions
                are all there, so that their verification can start.
        """

    def sample_with(
        self,
        guests: Guests,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        generator: torch.Generator,
        on_group: OnGroup | None = None,
    ) -> Rollouts:
        """Draw as :meth:`sample` does, the same, and let guests into the batch.

        A sampler that cannot asks none of them, as here.

        Args:
            guests: who joins.
            prompts: P prompts.
            group_size: completions a prompt.
            params: temperature and cut-offs.
            generator: source of all chance but the guests'; advanced.
            on_group: as for :meth:`sample`.
        """
        return self.sample(prompts, group_size, params, generator, on_group)

    def part(self, generator: torch.Generator, first: int, of: int) -> torch.Generator:
        """A generator for one process's sequences among those of all.

        Args:
            generator: of the run, the same on every process; advanced alike.
            first: how many sequences are in front of this process's.
            of: all sequences.
        """
        return forked(generator, first)

    @abstractmethod
    def sync(self, policy: Policy, version: int) -> None:
        """Draw from this policy from now on; `version` counts its optimizer steps."""

    def close(self) -> None:
        """Give engines and memory back."""


def pack_rollouts(
    prompts: Sequence[Prompt],
    group_size: int,
    tokens: Sequence[Tensor],
    logprobs: Sequence[Tensor],
    finished: Sequence[bool],
    policy: Policy,
    version: int,
) -> Rollouts:
    """Build :class:`~cooper.types.Rollouts` from per-completion tensors (N = P * group_size)."""
    lengths = torch.tensor([len(t) for t in tokens], dtype=torch.long)
    offsets = torch.zeros(len(tokens) + 1, dtype=torch.long)
    offsets[1:] = lengths.cumsum(0)
    # Row by row: batch_decode of nothing gives one empty text.
    decode = policy.tokenizer.decode
    texts = [str(decode(t.tolist(), skip_special_tokens=True)) for t in tokens]
    return Rollouts(
        problems=tuple(prompt.problem for prompt in prompts),
        prompt_ids=tuple(prompt.ids for prompt in prompts),
        problem_of=torch.arange(len(prompts)).repeat_interleave(group_size),
        ids=torch.cat(list(tokens)) if tokens else torch.zeros(0, dtype=torch.long),
        logprobs=torch.cat(list(logprobs)) if tokens else torch.zeros(0),
        offsets=offsets,
        finished=torch.tensor(list(finished), dtype=torch.bool),
        completions=tuple(texts),
        policy_version=version,
    )
