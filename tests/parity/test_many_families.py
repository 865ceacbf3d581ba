"""Models of many kinds: whatever they can do, what comes out is their own plain forward."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cooper.models import Policy
from cooper.models.packing import can_pack
from cooper.samplers import NativeSampler, decoding
from cooper.testing import tiny_tokenizer
from cooper.types import Problem, Prompt, Rollouts, SamplingParams


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer(["some words and more words"], vocab_size=300)


SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": None,
}  # fmt: skip
USUAL = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 64, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
# What builds it, and whether it is packed and decoded in slots.
FAMILIES: dict[str, tuple[Callable[[dict[str, Any]], Any], bool, bool]] = {
    "learned positions": (lambda ids: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT, **ids)), True, True),
    "experts": (
        lambda ids: tf.MixtralForCausalLM(tf.MixtralConfig(**USUAL, num_local_experts=4, **ids)),
        True, True,
    ),
    "scaled logits": (
        lambda ids: tf.GraniteForCausalLM(
            tf.GraniteConfig(**USUAL, logits_scaling=4.0, attention_multiplier=0.2, **ids)
        ),
        True, True,
    ),
    "alibi": (
        lambda ids: tf.BloomForCausalLM(
            tf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **ids)
        ),
        False, False,
    ),
    "no sdpa": (
        lambda ids: tf.GPTJForCausalLM(tf.GPTJConfig(**GPT, rotary_dim=4, **ids)), False, True,
    ),
    "positions of its own": (
        lambda ids: tf.StableLmForCausalLM(tf.StableLmConfig(**USUAL, **ids)), False, True,
    ),
    "capped, with windows": (
        lambda ids: tf.Gemma2ForCausalLM(
            tf.Gemma2Config(**USUAL, head_dim=8, sliding_window=8, **ids)
        ),
        False, False,
    ),
    "no attention": (
        lambda ids: tf.MambaForCausalLM(
            tf.MambaConfig(hidden_size=32, num_hidden_layers=2, **ids)
        ),
        False, False,
    ),
}  # fmt: skip


def plain(model: Any, rollouts: Rollouts) -> Tensor:
    """Each rollout alone, by the model as transformers made it."""
    found = []
    for row in range(len(rollouts)):
        prompt, own = rollouts.prompt_ids[rollouts.owners[row]], rollouts.tokens(row).tolist()
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([[*prompt, *own]])).logits[0].log_softmax(-1)
        found += [logps[len(prompt) + t - 1, token] for t, token in enumerate(own)]
    return torch.stack(found)


def built(name: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = FAMILIES[name][0]({"vocab_size": len(tokenizer), **ends}).eval()
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():  # so large that positions matter
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=rng) * 0.05)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_kind_computes_as_by_itself(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    _, packs, slots = FAMILIES[name]
    model = built(name, tokenizer)
    untouched = copy.deepcopy(model)
    policy = Policy(model, tokenizer).eval()
    sampler = NativeSampler()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sampler.sync(policy, 0)
        sampler.sync(policy, 1)
    told = [str(w.message) for w in said if "generate instead" in str(w.message)]
    assert len(told) == (0 if slots else 1)  # once
    prompts = [
        Prompt(Problem(str(i), "q", "7"), "", tuple(range(5 + i, 5 + i + length)))
        for i, length in enumerate((9, 14, 3))
    ]
    rollouts = sampler.sample(prompts, 3, SamplingParams(15), torch.Generator().manual_seed(0))
    expected = plain(untouched, rollouts)
    torch.testing.assert_close(rollouts.logprobs, expected, rtol=0, atol=1e-5)
    assert can_pack(model) == packs
    with torch.no_grad():
        logprobs = policy(rollouts, range(len(rollouts))).logprobs
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)


def test_what_comes_out_otherwise_in_slots_is_found(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eager attention adds its mask; a boolean one hides nothing, without an error."""
    monkeypatch.setattr(decoding.Decoding, "_mask", lambda _, seen: seen)
    policy = Policy(built("no sdpa", tokenizer), tokenizer).eval()
    with pytest.warns(UserWarning, match=r"GPTJForCausalLM computes otherwise in slots \(log-prob"):
        NativeSampler().sync(policy, 0)


def test_a_forward_that_takes_no_positions_is_not_packed_and_asked_once(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built("learned positions", tokenizer)
    own, asked = model.transformer.forward, []

    def forward(input_ids: Tensor, use_cache: bool = False, **given: Any) -> Any:
        asked.append(sorted(given))
        if given:
            raise TypeError(f"forward() got an unexpected keyword argument {min(given)!r}")
        return own(input_ids=input_ids, use_cache=use_cache)

    monkeypatch.setattr(model.transformer, "forward", forward)
    assert not can_pack(model)
    assert model.config._attn_implementation == "sdpa"
    assert any("position_ids" in given for given in asked)
    asked.clear()
    assert not can_pack(model)
    assert asked == []
