"""What is written for others equals what was trained, and writing it changes nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cooper.models import Policy
from cooper.models.adapters import LoraAdapter
from cooper.models.export import has_adapter, write_model

IDS = torch.arange(3, 63).view(2, 30)


def trained(policy: Policy, dtype: torch.dtype) -> Policy:
    """A copy with additions that are far from zero, over a base of some precision."""
    other = Policy(copy.deepcopy(policy.model).to(dtype), policy.tokenizer)
    other.adapt(LoraAdapter(rank=4, alpha=8), seed=0)
    rng = torch.Generator().manual_seed(1)
    for parameter in other.weights.trained:
        parameter.data += torch.randn(parameter.shape, generator=rng) * 0.1
    return other.eval()


@torch.no_grad()
def test_merging_for_the_export_leaves_the_model_alone(policy: Policy, tmp_path: Path) -> None:
    model = trained(policy, torch.float32)
    before, weights = model.model(IDS).logits, copy.deepcopy(model.model.state_dict())
    write_model(model, tmp_path)
    after = model.model.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert torch.equal(model.model(IDS).logits, before)
    assert has_adapter(model)
    assert all(p.requires_grad for p in model.weights.trained)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).logits, before, rtol=0, atol=1e-5)
    assert not torch.allclose(policy.model(IDS).logits, before, atol=0.1)


@torch.no_grad()
def test_a_16_bit_base_is_merged_in_float32(policy: Policy, tmp_path: Path) -> None:
    model = trained(policy, torch.bfloat16)
    write_model(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    name = "model.layers.1.mlp.up_proj"
    layer = model.model.get_submodule(name)
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (8 / 4)
    wanted = layer.base_layer.weight.float() + delta
    got = loaded.get_submodule(name).weight
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    assert not torch.equal(got, got.bfloat16().float())  # there was something to lose


@pytest.mark.parametrize("adapter", [False, True])
def test_a_model_trained_in_full_is_written_whole(
    policy: Policy, tmp_path: Path, adapter: bool
) -> None:
    assert not has_adapter(policy)
    write_model(policy, tmp_path, adapter=adapter)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, policy.model(IDS).logits)
