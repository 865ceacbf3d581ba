"""The native sampler: its chance, its distribution, its slots, and whom it leaves to others."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from cooper.data import PromptBuilder
from cooper.models import Policy
from cooper.samplers import HFSampler, NativeSampler
from cooper.samplers.drawing import draw, uniforms, warpers
from cooper.types import Problem, Prompt, Rollouts, SamplingParams


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[Prompt]:
    builder = PromptBuilder(policy.tokenizer, instruction=None)
    texts = ("What is 3 + 4?", "5 pens", "Tom has 12 apples and 5 pens. What is 12 + 5?")
    return [builder(Problem(str(i), text, "7")) for i, text in enumerate(texts)]


def drawn(
    policy: Policy, prompts: list[Prompt], group: int, tokens: int = 10**6, **params: Any
) -> Rollouts:
    sampler = NativeSampler(tokens)
    sampler.sync(policy, 0)
    settings = SamplingParams(**{"max_new_tokens": 10, **params})
    return sampler.sample(prompts, group, settings, torch.Generator().manual_seed(3))


def test_chance_is_splitmix64() -> None:
    """The first three numbers of the published generator from seed 0, their upper 53 bits."""
    published = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    ours = uniforms(torch.zeros(3, dtype=torch.long), torch.arange(3))
    assert ours.tolist() == [(number >> 11) * 2.0**-53 for number in published]


def test_chance_is_even() -> None:
    numbers = uniforms(
        torch.arange(-500, 500).repeat_interleave(100), torch.arange(100).repeat(1000)
    )
    counts = torch.histc(numbers.float(), bins=20, min=0, max=1)
    expected = len(numbers) / 20
    # 19 degrees of freedom: the 99.99 % point is 50.8.
    assert float(((counts - expected) ** 2 / expected).sum()) < 50.8
    assert abs(float(torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1])) < 0.02


@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1, "temperature": 1.5}],
    ids=str,
)
def test_draws_follow_the_exact_distribution(params: dict[str, Any]) -> None:
    """Chi-square of 20,000 draws from one distribution of 12 tokens."""
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 1.5
    settings = SamplingParams(1, **params)
    count = 20_000
    tokens, logprobs = draw(
        logits.expand(count, -1),
        warpers(settings),
        uniforms(torch.arange(count), torch.zeros(count, dtype=torch.long)),
    )
    exact = by_hand(logits, settings)
    assert torch.allclose(logprobs.exp(), exact[tokens].float(), atol=1e-6)
    counts = torch.bincount(tokens, minlength=12).double()
    assert not counts[exact == 0].any()
    there = exact > 0
    expected = exact[there] * count
    chi = float(((counts[there] - expected) ** 2 / expected).sum())
    # 11 degrees of freedom at most: the 99.99 % point is 37.4.
    assert chi < 37.4


def by_hand(logits: Tensor, params: SamplingParams) -> Tensor:
    """The processed distribution, by its definitions."""
    p = (logits.double() / params.temperature).softmax(-1)
    if params.top_k:
        p[p < p.sort(descending=True).values[params.top_k - 1]] = 0
    if params.top_p < 1:
        order = p.argsort(descending=True)
        before = p[order].cumsum(0) - p[order]
        p[order[before >= params.top_p]] = 0
    if params.min_p:
        p[p < params.min_p * p.max()] = 0
    return p / p.sum()


def test_slots_do_not_change_what_is_drawn(policy: Policy, prompts: list[Prompt]) -> None:
    whole = drawn(policy, prompts, 4)
    for tokens in (1, 60, 120, 300):
        some = drawn(policy, prompts, 4, tokens)
        assert some.ids.tolist() == whole.ids.tolist()
        assert torch.allclose(some.logprobs, whole.logprobs, atol=1e-5)


@torch.no_grad()
def test_logprobs_are_those_of_a_teacher_forced_forward(
    policy: Policy, prompts: list[Prompt]
) -> None:
    rollouts = drawn(policy, prompts, 4, 300)
    assert (policy(rollouts, range(12)).logprobs - rollouts.logprobs).abs().max() < 1e-5


def test_greedy_tokens_are_those_of_generate(policy: Policy, prompts: list[Prompt]) -> None:
    ours = drawn(policy, prompts, 2, 300, temperature=0.0)
    sampler = HFSampler()
    sampler.sync(policy, 0)
    settings = SamplingParams(10, temperature=0.0)
    theirs = sampler.sample(prompts, 2, settings, torch.Generator())
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert torch.allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


START = (5, 6, 7)


@pytest.mark.parametrize("how", ["sdpa", "eager"])
def test_a_prompt_is_computed_once_a_group(policy: Policy, prompts: list[Prompt], how: str) -> None:
    own = Policy(copy.deepcopy(policy.model), policy.tokenizer).eval()
    own.model.set_attn_implementation(how)
    shapes: list[tuple[int, ...]] = []
    embed: Any = own.model.get_input_embeddings()
    embed.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    prompts = [replace(prompt, ids=START + prompt.ids) for prompt in prompts]
    sampler = NativeSampler()
    sampler.sync(own, 0)  # which tries a few tokens
    shapes.clear()
    rollouts = sampler.sample(prompts, 4, SamplingParams(10), torch.Generator().manual_seed(3))
    lengths = [len(prompt.ids) for prompt in prompts]
    if how == "eager":  # its attention cannot be replaced, so it is padded
        assert shapes[0] == (3, max(lengths))
    else:  # what all three begin with is there once
        assert shapes[0] == (1, sum(lengths) - 2 * len(START))
    # Every sequence is fed each of its tokens but the last, and drops out with that.
    assert sum(rows for rows, _ in shapes[1:]) == int((rollouts.lengths - 1).sum())
    assert {columns for _, columns in shapes[1:]} == {1}


def test_models_with_windows_are_left_to_generate(policy: Policy, prompts: list[Prompt]) -> None:
    config = MistralConfig(
        vocab_size=len(policy.tokenizer), hidden_size=16, num_hidden_layers=1, sliding_window=8,
        num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
    )  # fmt: skip
    own = Policy(MistralForCausalLM(config), policy.tokenizer).eval()
    sampler = NativeSampler()
    with pytest.warns(UserWarning, match="MistralForCausalLM has layers that do not attend"):
        sampler.sync(own, 0)
    rollouts = sampler.sample(prompts, 2, SamplingParams(4), torch.Generator().manual_seed(0))
    assert len(rollouts) == 6


def test_room_is_at_least_one_token() -> None:
    with pytest.raises(ValueError, match=r"sampler\.cache_tokens=0: at least 1"):
        NativeSampler(0)
