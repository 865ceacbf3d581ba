"""Guests in a policy's batch: both draw what they draw apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cooper.data import PromptBuilder
from cooper.models import Policy
from cooper.models.adapters import LoraAdapter
from cooper.models.roles import Roles
from cooper.samplers import HFSampler, NativeSampler, Sampler
from cooper.samplers.drawing import sequence_seeds
from cooper.samplers.guests import Guest, Guests
from cooper.types import Problem, Prompt, Rollouts, SamplingParams

OWN = SamplingParams(40, temperature=1.0)
THEIRS = SamplingParams(50, temperature=0.7, top_p=0.9)
GROUP = 4


def adapted(policy: Policy) -> Policy:
    """With additions that matter, and ends that come at different times."""
    own = Policy(copy.deepcopy(policy.model), policy.tokenizer).eval()
    own.model.generation_config.eos_token_id = [policy.tokenizer.eos_token_id, *range(40, 56)]
    own.adapt(LoraAdapter(rank=4, alpha=8.0), seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in own.weights.trained:
            parameter += torch.randn(parameter.shape, generator=rng) * 0.2
    return own


@pytest.fixture(scope="module")
def lora(policy: Policy) -> Policy:
    return adapted(policy)


def made(policy: Policy, texts: Sequence[str]) -> list[Prompt]:
    builder = PromptBuilder(policy.tokenizer, instruction=None)
    return [builder(Problem(str(i), text, "7")) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[Prompt]:
    return made(policy, ("What is 3 + 4?", "5 pens", "Tom has 12 apples and 5 pens. What is it?"))


@pytest.fixture(scope="module")
def asked(policy: Policy) -> list[Prompt]:
    """The guests' prompts, longer and shorter than the policy's."""
    return made(policy, [f"{n} " + "apples and pens " * (5 * n % 7) for n in range(5)])


class Script(Guests):
    """Sends so many guests when so many rollouts have ended."""

    params = THEIRS

    def __init__(self, asked: Sequence[Prompt], when: Mapping[int, int], at_last: int = 0) -> None:
        seeds = sequence_seeds(len(asked), torch.Generator().manual_seed(7)).tolist()
        self.left = [Guest(p.ids, seed) for p, seed in zip(asked, seeds, strict=True)]
        self.when, self.at_last = dict(when), at_last
        self.ended: dict[int, str] = {}
        self.lasts: list[bool] = []
        self.said: dict[int, tuple[str, bool]] = {}

    def joining(self, ended: Mapping[int, str], last: bool) -> list[Guest]:
        assert not self.ended.keys() & ended.keys()
        self.ended.update(ended)
        self.lasts.append(last)
        count = sum(self.when.pop(n) for n in list(self.when) if n <= len(self.ended))
        count += self.at_last if last else 0
        going, self.left = self.left[:count], self.left[count:]
        return going

    def answered(self, guest: int, text: str, finished: bool) -> None:
        assert guest not in self.said
        self.said[guest] = text, finished


def drawn(
    policy: Policy,
    prompts: Sequence[Prompt],
    guests: Guests | None,
    tokens: int = 10**6,
    params: SamplingParams = OWN,
    sampler: Sampler | None = None,
) -> Rollouts:
    sampler = sampler or NativeSampler(tokens)
    sampler.sync(policy, 0)
    rng = torch.Generator().manual_seed(3)
    if guests is None:
        return sampler.sample(prompts, GROUP, params, rng)
    return sampler.sample_with(guests, prompts, GROUP, params, rng)


def alone(policy: Policy, asked: Sequence[Prompt]) -> dict[int, tuple[str, bool]]:
    """What the guests write by themselves."""
    sampler = NativeSampler()
    sampler.sync(policy.start(), 0)
    rollouts = sampler.sample(asked, 1, THEIRS, torch.Generator().manual_seed(7))
    pairs = zip(rollouts.completions, rollouts.finished.tolist(), strict=True)
    return dict(enumerate(pairs))


# Room for all; for a few; for one policy's sequence at once, so that guests wait for the last.
@pytest.mark.parametrize("tokens", [10**6, 700, 60])
@pytest.mark.parametrize(
    ("when", "at_last"),
    [({2: 1, 8: 1, 10: 2}, 1), ({0: 5}, 0), ({}, 5)],
    ids=["some", "all", "last"],
)
def test_both_draw_as_apart(
    lora: Policy, prompts: list[Prompt], asked: list[Prompt], tokens: int, when: dict[int, int],
    at_last: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    batches: list[Tensor] = []
    partly = Roles.partly

    def noting(roles: Roles, role: str, rows: Tensor) -> Any:
        batches.append(rows)
        return partly(roles, role, rows)

    monkeypatch.setattr(Roles, "partly", noting)
    plain, guests = drawn(lora, prompts, None, tokens), Script(asked, when, at_last)
    mixed = drawn(lora, prompts, guests, tokens)
    assert mixed.ids.tolist() == plain.ids.tolist()
    assert torch.allclose(mixed.logprobs, plain.logprobs, atol=1e-5)
    assert mixed.finished.tolist() == plain.finished.tolist()
    assert guests.said == alone(lora, asked)
    # The other way round they would say something else.
    sampler = NativeSampler()
    sampler.sync(lora, 0)
    other = sampler.sample(asked, 1, THEIRS, torch.Generator().manual_seed(7)).completions
    assert tuple(text for text, _ in guests.said.values()) != other
    # Each of the policy's texts is told once, and the end too.
    assert guests.ended == dict(enumerate(plain.completions))
    assert guests.lasts == [False] * (len(guests.lasts) - 1) + [True]
    assert bool(batches) is (tokens > 60 and bool(when))  # whether any batch held both


def test_stop_strings_are_the_policys_alone(
    lora: Policy, prompts: list[Prompt], asked: list[Prompt]
) -> None:
    texts = [text for text, _ in alone(lora, asked).values()]
    stop = (max(texts, key=len)[1:2],)
    params = SamplingParams(40, stop=stop)
    guests = Script(asked, {0: 5})
    mixed = drawn(lora, prompts, guests, params=params)
    assert mixed.ids.tolist() == drawn(lora, prompts, None, params=params).ids.tolist()
    assert guests.said == alone(lora, asked)


def test_all_ends_at_the_same_step(
    lora: Policy, prompts: list[Prompt], asked: list[Prompt]
) -> None:
    guests = Script(asked, {1: 5})
    mixed = drawn(lora, prompts, guests, params=SamplingParams(1))
    assert mixed.lengths.tolist() == [1] * 12
    assert len(guests.said) == 5


def test_nobody_draws_and_nobody_comes(
    lora: Policy, prompts: list[Prompt], asked: list[Prompt]
) -> None:
    guests = Script(asked, {})
    assert drawn(lora, prompts, guests).ids.tolist() == drawn(lora, prompts, None).ids.tolist()
    assert not guests.said
    guests = Script(asked, {}, at_last=5)
    assert len(drawn(lora, [], guests)) == 0
    assert guests.said == alone(lora, asked)


@pytest.mark.parametrize("how", ["whole", "hf"])
def test_who_cannot_mix_asks_no_guest(
    policy: Policy, lora: Policy, prompts: list[Prompt], asked: list[Prompt], how: str
) -> None:
    """All of the weights are trained; another sampler."""
    guests = Script(asked, {0: 5}, at_last=5)
    given = (policy, NativeSampler()) if how == "whole" else (lora, HFSampler())
    rollouts = drawn(given[0], prompts, guests, sampler=given[1])
    assert rollouts.ids.tolist() == drawn(given[0], prompts, None, sampler=given[1]).ids.tolist()
    assert guests.lasts == []
