"""LoRA in RL: the base at the start, the reference without a copy, precision, checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cooper.errors import CheckpointError, ModelError
from cooper.models import Policy, RewardModel, load_causal_lm, load_reward_model
from cooper.models.adapters import FullAdapter, LoraAdapter
from cooper.models.policy import StartOf
from cooper.types import Rollouts

LORA = LoraAdapter(rank=4, alpha=8.0)
TRIPLES = (["q one", "q two"], ["7", "8"], ["so 7", "it is \\boxed{9}"])


@pytest.fixture
def own(policy: Policy) -> Policy:
    """A policy that a test may change."""
    return copy.deepcopy(policy)


@pytest.fixture
def own_reward(reward_model: RewardModel) -> RewardModel:
    return copy.deepcopy(reward_model)


def moved(model: Policy | RewardModel, seed: int = 0) -> None:
    """Put the trained additions somewhere else."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.weights.trained:
            parameter += torch.randn(parameter.shape, generator=rng) * 0.05


def test_lora_at_the_start_is_the_base_to_the_bit(own: Policy, ragged: Rollouts) -> None:
    with torch.no_grad():
        before = own(ragged, range(6)).logprobs
        own.adapt(LORA, seed=1)
        assert torch.equal(own(ragged, range(6)).logprobs, before)
        moved(own)
        assert (own(ragged, range(6)).logprobs - before).abs().max() > 1e-2


def test_a_reward_model_at_the_start_is_the_base(own_reward: RewardModel) -> None:
    before = own_reward.score(*TRIPLES)
    own_reward.adapt(LORA, seed=1)
    assert torch.equal(own_reward.score(*TRIPLES), before)


def test_only_the_additions_are_trained(own: Policy, own_reward: RewardModel) -> None:
    own.adapt(LORA, seed=1)
    names = {n for n, p in own.named_parameters() if p.requires_grad}
    assert names
    assert all(".lora_" in name for name in names)
    assert len(own.weights.trained) == len(names)
    own_reward.adapt(LORA, seed=1)
    others = {n for n, p in own_reward.named_parameters() if p.requires_grad and ".lora_" not in n}
    assert others == {"model.score.modules_to_save.default.weight"}
    assert sum(p.requires_grad for p in own_reward.parameters()) == len(own_reward.weights.trained)


def test_the_reference_under_lora_is_the_base_without_a_copy(own: Policy, ragged: Rollouts) -> None:
    with torch.no_grad():
        base = own(ragged, range(6)).logprobs
        own.adapt(LORA, seed=1)
        moved(own)
        reference = own.start()
        assert isinstance(reference, StartOf)
        assert torch.equal(reference(ragged, range(6)).logprobs, base)
    assert not list(reference.parameters())
    reference.requires_grad_(False)
    reference.freeze()
    assert all(p.requires_grad for p in own.weights.trained)


def test_the_reference_of_full_training_is_a_copy(own: Policy, ragged: Rollouts) -> None:
    own.adapt(FullAdapter(), seed=1)
    reference = own.start()
    with torch.no_grad():
        base = own(ragged, range(6)).logprobs
        moved(own)
        assert torch.equal(reference(ragged, range(6)).logprobs, base)
    assert not any(p.requires_grad for p in reference.parameters())


def gradients(policy: Policy, ragged: Rollouts, between: Callable[[], Any]) -> list[torch.Tensor]:
    for parameter in policy.weights.trained:
        parameter.grad = None
    policy.train()
    loss = policy(ragged, range(6)).logprobs.sum()
    between()
    loss.backward()
    policy.eval()
    return [p.grad.clone() for p in policy.weights.trained if p.grad is not None]


@pytest.mark.parametrize("adapter", [FullAdapter(), LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient(
    own: Policy, ragged: Rollouts, adapter: FullAdapter | LoraAdapter
) -> None:
    own.adapt(adapter, seed=1)
    moved(own)
    plain = gradients(own, ragged, lambda: None)
    own.weights.checkpoint_gradients()
    calls: list[int] = []
    layer: Any = own.model.get_decoder().layers[0].mlp
    handle = layer.register_forward_pre_hook(lambda *_: calls.append(1))
    again = gradients(own, ragged, lambda: None)
    handle.remove()
    assert len(calls) == 2  # once more in the backward pass
    assert len(plain) == len(again) == len(own.weights.trained)
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


def test_the_reference_between_forward_and_backward_drops_nothing(
    own: Policy, ragged: Rollouts
) -> None:
    own.adapt(LORA, seed=1)
    moved(own)
    plain = gradients(own, ragged, lambda: None)
    own.weights.checkpoint_gradients()
    reference = own.start()

    def between() -> None:
        with torch.no_grad():
            reference(ragged, range(6))

    for one, other in zip(plain, gradients(own, ragged, between), strict=True):
        assert torch.equal(one, other)


def test_a_recomputation_takes_the_role_of_its_forward(own: Policy, ragged: Rollouts) -> None:
    """The backward pass under another role is what one base for two models brings about."""
    own.adapt(LORA, seed=1)
    moved(own)
    plain = gradients(own, ragged, lambda: None)
    own.weights.checkpoint_gradients()
    roles: Any = own.weights
    own.train()
    for parameter in own.weights.trained:
        parameter.grad = None
    loss = own(ragged, range(6)).logprobs.sum()
    with roles.roles.acting(None):
        loss.backward()
    again = [p.grad for p in own.weights.trained if p.grad is not None]
    assert len(again) == len(plain)
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("adapter", [FullAdapter(), LORA], ids=["full", "lora"])
def test_a_small_step_under_bf16_moves_weights_as_in_fp32(
    policy: Policy, ragged: Rollouts, adapter: FullAdapter | LoraAdapter
) -> None:
    """AdamW's first step moves each weight by the learning rate against its gradient's sign."""
    moves = []
    for mixed in (False, True):
        own = copy.deepcopy(policy)
        if mixed and not adapter.trains_base:
            own.to(torch.bfloat16)
        own.adapt(adapter, seed=1)
        moved(own)
        before = [p.detach().clone() for p in own.weights.trained]
        optimizer = torch.optim.AdamW(own.weights.trained, lr=1e-6, weight_decay=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = own(ragged, range(6)).logprobs.sum()
        loss.backward()
        optimizer.step()
        assert {p.dtype for p in own.weights.trained} == {torch.float32}
        # The direction, where the gradient is not lost in bfloat16's noise.
        moves.append(
            torch.cat(
                [(p - b).flatten() for p, b in zip(own.weights.trained, before, strict=True)]
            ).detach()
        )
    plain, mixed_moves = moves
    assert (plain != 0).float().mean() > 0.9
    assert ((mixed_moves != 0) == (plain != 0)).float().mean() > 0.99
    assert (mixed_moves.sign() == plain.sign()).float().mean() > 0.95
    # As far as float32 can tell weights of this size apart.
    assert torch.quantile((mixed_moves.abs() - plain.abs()).abs(), 0.95) < 2e-8


def test_a_trained_head_on_a_16_bit_base_is_float32(own_reward: RewardModel) -> None:
    expected = own_reward.score(*TRIPLES)
    own_reward.to(torch.bfloat16)
    own_reward.adapt(LORA, seed=1)
    assert {p.dtype for p in own_reward.weights.trained} == {torch.float32}
    assert (own_reward.score(*TRIPLES) - expected).abs().max() < 0.05


def test_saved_additions_are_peft_s_own_form(own: Policy, ragged: Rollouts, tmp_path: Path) -> None:
    from peft import PeftModel

    own.save(tmp_path / "base")
    own = Policy(load_causal_lm(str(tmp_path / "base")), own.tokenizer).eval()
    own.adapt(LORA, seed=1)
    moved(own)
    own.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = own.model(ids).logits
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        assert not torch.allclose(base(ids).logits, expected, atol=1e-3)
        plain: Any = PeftModel.from_pretrained(base, tmp_path / "adapter")
        assert torch.equal(plain(ids).logits, expected)
        # By transformers alone, and by us, merged.
        auto = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
        assert torch.equal(auto(ids).logits, expected)
        merged = load_causal_lm(str(tmp_path / "adapter"))
        assert torch.allclose(merged(ids).logits, expected, atol=1e-5)
    other = Policy(load_causal_lm(str(tmp_path / "base")), own.tokenizer).eval()
    other.adapt(LORA, seed=2)
    other.weights.load(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(other(ragged, range(6)).logprobs, own(ragged, range(6)).logprobs)
    other.merge()
    assert not any(".lora_" in name for name, _ in other.named_parameters())


def test_a_reward_model_s_additions_bring_its_head(
    own_reward: RewardModel, reward_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    own_reward.adapt(LORA, seed=1)
    moved(own_reward)
    own_reward.save(tmp_path)
    expected = own_reward.score(*TRIPLES)
    loaded = RewardModel.from_pretrained(tmp_path)
    assert loaded.recorded
    assert torch.allclose(loaded.score(*TRIPLES), expected, atol=1e-5)
    base = AutoModelForSequenceClassification.from_pretrained(reward_folder, num_labels=1)
    plain: Any = PeftModel.from_pretrained(base, tmp_path)
    as_ours = RewardModel(plain.get_base_model(), own_reward.tokenizer).eval()
    assert torch.allclose(as_ours.score(*TRIPLES), expected, atol=1e-6)


def test_errors(own: Policy, tmp_path: Path, reward_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"adapter\.target_modules=\['none'\]: "):
        own.adapt(LoraAdapter(target_modules=["none"]), seed=1)
    with pytest.raises(ModelError, match=r"no layer q_prj; it has .*q_proj"):  # peft takes it
        own.adapt(LoraAdapter(target_modules=["v_proj", "q_prj"]), seed=1)
    own.adapt(LORA, seed=1)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        own.weights.load(tmp_path)
    own.save(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    with pytest.raises(ModelError, match="base_model_name_or_path"):
        load_causal_lm(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_causal_lm(str(tmp_path))
    with pytest.raises(ModelError, match="no such folder"):
        load_reward_model(str(tmp_path / "none"))
