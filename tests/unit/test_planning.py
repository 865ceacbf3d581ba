"""Planned parameters, memory and time against figures by hand, peft's and torch's counts."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

from cooper.errors import ConfigError
from cooper.models.adapters import FullAdapter, LoraAdapter
from cooper.models.reward_heads import ScalarHead
from cooper.planning.gpus import GPUS, Gpu, find
from cooper.planning.memory import CUDA_CONTEXT, Memory, memory
from cooper.planning.remedies import remedies
from cooper.planning.setup import STRATEGIES, Role, Room, Setup, find_strategy
from cooper.planning.skeletons import Source, skeleton
from cooper.planning.speed import Work, forward_flops, optimizer_bytes, step_work
from cooper.planning.tracing import trace

FULL, LORA = FullAdapter(), LoraAdapter(rank=4)
# Embeddings 100 x 8; a layer: q 8 x 8 + 8, k and v 8 x 4 + 4 each, o 8 x 8, three of 8 x 16 in the
# MLP, two norms of 8; a last norm. The head is tied.
LAYER = 72 + 36 + 36 + 64 + 3 * 128 + 16
TOTAL = 800 + 2 * LAYER + 8


def config(layers: int = 2) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=100, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=16, tie_word_embeddings=True,
    )  # fmt: skip


POLICY = Source(config(), "policy.path")
REWARD = Source(config(), "reward_model.path", "classifier", head=ScalarHead())


def setup(**changes: Any) -> Setup:
    given: dict[str, Any] = {
        "policy": Role(POLICY, FULL), "reward_model": Role(REWARD, FULL), "problems": 4,
        "group_size": 4, "prompt": 10, "completion": 20, "mean_prompt": 10, "mean_completion": 20,
        "sampled": 20, "sampler": Room(8), "micro_tokens": 90, "row": 30, "mean_row": 30,
        "pairs": 4, "reward_micro_tokens": 120, "gpu": False, **changes,
    }  # fmt: skip
    return Setup(**given)


def part(found: Memory, role: str, what: str) -> int:
    """Bytes of a resident part; 0 where there is none."""
    return sum(p.bytes for p in found.resident if (p.role, p.what) == (role, what))


def of_phase(found: Memory, name: str, what: str) -> int:
    phase = next(phase for phase in found.phases if phase.name == name)
    return sum(p.bytes for p in phase.parts if p.what == what)


# ---------------------------------------------------------------------- parameters


def test_parameters_by_hand() -> None:
    count = skeleton(POLICY, FULL, "float32", "float32", False).count
    assert (count.total, count.trained, count.added) == (TOTAL, TOTAL, 0)
    assert count.linear == 2 * (64 + 32 + 32 + 64 + 384)
    assert count.head == 800
    assert count.attention == 2 * 2 * 4
    assert count.largest == 800
    head = skeleton(REWARD, FULL, "float32", "float32", False).count
    assert head.total == TOTAL + 8  # the score layer has no bias


@pytest.mark.parametrize(
    ("source", "kind", "task"),
    [
        (POLICY, Qwen2ForCausalLM, TaskType.CAUSAL_LM),
        (REWARD, Qwen2ForSequenceClassification, TaskType.SEQ_CLS),
    ],
)
def test_lora_trains_what_peft_says(source: Source, kind: Any, task: TaskType) -> None:
    own = config()
    own.num_labels = 1
    model = get_peft_model(kind(own), LoraConfig(task, r=4, target_modules="all-linear"))
    trained, total = model.get_nb_trainable_parameters()
    count = skeleton(source, LORA, "float32", "float32", False).count
    assert (count.trained, count.total) == (trained, total)
    # Of rank 4 beside each layer: 4 x (in + out).
    assert count.added - (8 if source is REWARD else 0) == 2 * 4 * (2 * 16 + 2 * 12 + 3 * 24)


# ---------------------------------------------------------------------- tracing


def test_a_trace_counts_what_lives_at_once() -> None:
    def run() -> torch.Tensor:
        first = torch.zeros(1000)  # 4000 bytes
        second = first + 1  # 8000
        del first
        third = second.view(10, 100)  # no storage of its own
        return third.sum(0)  # 4400

    found = trace(run, [], "float32")
    assert (found.peak, found.left) == (8000, 400)


def test_a_trace_does_not_count_what_is_known() -> None:
    weights = skeleton(POLICY, FULL, "float32", "float32", False).model.lm_head.weight
    found = trace(lambda: weights.t() * 1, [weights], "float32")
    assert found.peak == 3200


def test_the_backward_pass_leaves_all_gradients() -> None:
    model = skeleton(POLICY, FULL, "float32", "float32", False)
    alone = model.policy_update(2, 1, 5, 5, entropy=False, gradients=False)
    assert alone.left == 4 * TOTAL
    assert model.policy_update(2, 1, 5, 5, entropy=False, gradients=True).left == 0


# ---------------------------------------------------------------------- memory


def test_memory_of_full_training_by_hand() -> None:
    found = memory(setup(), process=1234)
    buffers = skeleton(POLICY, FULL, "float32", "float32", False).weight_bytes - 4 * TOTAL
    assert 0 < buffers <= 16  # the two frequencies of the rotary embedding, and their start
    assert part(found, "program", "process") == 1234
    assert part(found, "policy", "weights") == 4 * TOTAL + buffers
    assert part(found, "reference", "weights") == 4 * TOTAL + buffers
    assert part(found, "policy", "optimizer") == 8 * TOTAL
    assert part(found, "reward_model", "optimizer") == 8 * (TOTAL + 8)
    # 8 rows of 30 tokens, two layers, keys and values of 4 float32.
    assert of_phase(found, "sampling", "kv cache") == 8 * 30 * 2 * 2 * 4 * 4
    assert of_phase(found, "policy update", "gradients") == 4 * TOTAL


def test_parts_add_up_and_the_largest_phase_decides() -> None:
    found = memory(setup(), process=7)
    resident = sum(p.bytes for p in found.resident)
    assert found.resident_bytes == resident
    assert found.peak == resident + max(sum(p.bytes for p in ph.parts) for ph in found.phases)
    assert [phase.name for phase in found.phases] == [
        "sampling", "scoring", "reference logprobs", "policy update", "reward model update",
    ]  # fmt: skip


def test_lora_copies_no_reference_and_has_moments_of_its_own_weights_alone() -> None:
    found = memory(setup(policy=Role(POLICY, LORA)))
    added = skeleton(POLICY, LORA, "float32", "float32", False).count.added
    assert part(found, "reference", "weights") == 0
    assert part(found, "policy", "optimizer") == 8 * added
    assert of_phase(found, "policy update", "gradients") == 4 * added


def test_mixed_precision_keeps_trained_weights_in_float32_and_frozen_ones_in_bfloat16() -> None:
    found = memory(setup(precision="bf16-mixed", gpu=True))
    whole = memory(setup())
    assert part(found, "program", "cuda context") == CUDA_CONTEXT
    assert part(found, "policy", "weights") == part(whole, "policy", "weights")
    assert 2 * TOTAL <= part(found, "reference", "weights") <= 2 * TOTAL + 16


def test_zero3_divides_all_states() -> None:
    found = memory(setup(precision="bf16-mixed", sharding=STRATEGIES["zero3"], gpus=4, problems=16))
    assert part(found, "policy", "fp32 masters") == 4 * TOTAL // 4
    assert part(found, "policy", "optimizer") == 8 * TOTAL // 4
    assert part(found, "policy", "weights") <= (2 * TOTAL + 16) // 4
    assert of_phase(found, "policy update", "gradients") == 4 * TOTAL // 4
    assert of_phase(found, "policy update", "gathered weights") == 2 * 2 * 800
    assert of_phase(found, "sampling", "gathered weights") == 2 * TOTAL


def test_offload_moves_masters_and_moments_to_the_host() -> None:
    found = memory(setup(precision="bf16-mixed", sharding=STRATEGIES["zero2_offload"], gpus=2))
    assert part(found, "policy", "optimizer") == part(found, "policy", "fp32 masters") == 0
    assert found.host == 12 * TOTAL // 2 + 12 * (TOTAL + 8) // 2
    third = memory(setup(precision="bf16-mixed", sharding=STRATEGIES["zero3_offload"], gpus=2))
    assert part(third, "policy", "weights") == part(third, "reward_model", "weights") == 0
    weights = 2 * TOTAL + 16, 2 * (TOTAL + 8) + 16  # the rotations' frequencies are float32
    assert third.host == found.host + sum(weights) // 2


@pytest.mark.parametrize(("precision", "of_one"), [("32-true", 2), ("bf16-mixed", 1)])
def test_zero2_divides_gradients_and_not_weights_and_zero1_neither(
    precision: str, of_one: int
) -> None:
    """DeepSpeed's stage 1 adds 16-bit gradients up in 16 bits: stage 2 does its work there."""

    def plan(name: str) -> Memory:
        return memory(setup(precision=precision, sharding=STRATEGIES[name], gpus=2))

    one, two = plan("zero1"), plan("zero2")
    assert of_phase(one, "policy update", "gradients") == of_one * 4 * TOTAL // 2
    assert of_phase(two, "policy update", "gradients") == 4 * TOTAL // 2
    assert part(one, "policy", "weights") == part(two, "policy", "weights") >= 2 * TOTAL
    assert part(one, "policy", "optimizer") == part(two, "policy", "optimizer") == 4 * TOTAL


def test_one_base_holds_its_weights_once() -> None:
    roles = {"policy": Role(POLICY, LORA), "reward_model": Role(REWARD, LORA)}
    apart, shared = memory(setup(**roles)), memory(setup(**roles, shared=True))
    trained = skeleton(REWARD, LORA, "float32", "float32", False).trained_bytes
    assert part(shared, "reward_model", "weights") == trained
    assert part(apart, "reward_model", "weights") > 4 * TOTAL


@pytest.mark.parametrize(
    "more",
    [
        {"micro_tokens": 180},
        {"completion": 40, "sampled": 40},
        {"prompt": 30},
        {"policy": Role(Source(config(), "x"), FULL), "precision": "32-true", "entropy": True},
    ],
)
def test_more_work_takes_no_less_memory(more: dict[str, Any]) -> None:
    # Under a small budget longer rows would be fewer.
    base = setup(entropy=False, **({} if "micro_tokens" in more else {"micro_tokens": 999}))
    assert memory(replace(base, **more)).peak >= memory(base).peak


def test_more_of_a_size_takes_more_memory() -> None:
    peaks = [memory(setup(micro_tokens=n)).peak for n in (1, 90, 360)]
    assert peaks == sorted(set(peaks))
    caches = [of_phase(memory(setup(sampler=Room(n))), "sampling", "kv cache") for n in (2, 4, 8)]
    assert caches[2] == 2 * caches[1] == 4 * caches[0]


def test_slots_by_hand() -> None:
    """Room for 5 sequences of 30 tokens, whose prompts are read once a group of 4."""
    found = memory(setup(sampler=Room(cache_tokens=179)))
    assert of_phase(found, "sampling", "kv cache") == 5 * 30 * 2 * 2 * 4 * 4
    model = skeleton(POLICY, FULL, "float32", "float32", False)
    seen: list[tuple[int, ...]] = []
    hook = model.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: seen.append(tuple(given[0].shape))
    )
    model.decode_in_slots(6, 4, 11, 20)
    hook.remove()
    assert seen == [(2, 11), (6, 1)]


def test_a_micro_batch_is_as_full_as_rows_of_the_longest_can_make_it() -> None:
    model = skeleton(POLICY, FULL, "float32", "float32", False)
    assert [model.micro(n, 16, 4, 10, 20) for n in (1, 49, 50, 89, 90, 179, 180, 999)] == [
        1, 1, 2, 3, 4, 7, 8, 16,
    ]  # fmt: skip


def test_gradient_checkpointing_lowers_activations() -> None:
    # More layers than two, so that what is recomputed is more than a layer's input.
    source = Source(config(layers=8), "policy.path")
    kept, recomputed = (
        of_phase(memory(setup(policy=Role(source, FULL, on))), "policy update", "activations")
        for on in (False, True)
    )
    assert recomputed < 0.6 * kept


# ---------------------------------------------------------------------- time


def test_flops_of_a_forward_are_those_that_torch_counts() -> None:
    model = Qwen2ForCausalLM(config())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(3, 16, dtype=torch.long), use_cache=False)
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    products = sum(n for op, n in counts.items() if "mm" in op)
    count = skeleton(POLICY, FULL, "float32", "float32", False).count
    attention = 3 * 4 * count.attention * 16 * 17 / 2
    assert forward_flops(count, 3, 16, 16) - attention == products


def test_a_phase_waits_for_the_slower_of_products_and_memory() -> None:
    gpu = Gpu("by hand", 0, flops=10.0, bandwidth=5.0)
    work = Work("x", 40.0, 25.0, ((30.0, 5.0), (10.0, 20.0)))
    assert work.seconds(gpu) == 30 / 10 + 20 / 5


def test_bandwidth_bounds_generation() -> None:
    one = setup(reward_model=None, sampler=Room(16))
    small = setup(reward_model=None, sampler=Room(1))
    gpu = GPUS["H100"]
    # 16 rows at once read the weights once for all of them.
    assert step_work(one)[0].seconds(gpu) < step_work(small)[0].seconds(gpu) / 4


def test_adamw_moves_28_bytes_a_weight() -> None:
    count = skeleton(POLICY, FULL, "float32", "float32", False).count
    assert optimizer_bytes(setup(), count) == 28 * TOTAL
    zero1 = setup(sharding=STRATEGIES["zero1"], gpus=4)
    assert optimizer_bytes(zero1, count) == 7 * TOTAL


# ---------------------------------------------------------------------- GPUs and remedies


def test_gpus_are_found_in_any_spelling() -> None:
    assert find("a100 80") is GPUS["A100-80"]
    assert find("rtx-4090") is GPUS["RTX4090"]
    with pytest.raises(ConfigError, match=r"plan\.gpu=H1000: .*did you mean H100\? known are A100"):
        find("H1000")
    with pytest.raises(ConfigError, match=r"plan\.strategy=zero4: .*known are single, ddp"):
        find_strategy("zero4")


def test_a_remedy_is_the_run_planned_again() -> None:
    base = setup(gpu=True, precision="bf16-mixed", micro_tokens=360)
    now = memory(base).peak
    found = {remedy.change: remedy.peak for remedy in remedies(base, now - 1)}
    assert found["algorithm.micro_batch_tokens=30"] == memory(replace(base, micro_tokens=30)).peak
    assert all(peak < now for peak in found.values())
    assert any(change.startswith("adapter@policy_adapter=lora") for change in found)


def test_the_peak_does_not_depend_on_what_was_planned_before() -> None:
    sizes = [1, 50, 90, 180]
    forwards = {size: memory(setup(micro_tokens=size)).peak for size in sizes}
    random.Random(0).shuffle(sizes)
    skeleton.cache_clear()
    assert {size: memory(setup(micro_tokens=size)).peak for size in sizes} == forwards
