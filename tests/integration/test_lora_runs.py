"""cooper-train with LoRA on both models: resume, checkpoints in peft's own form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import metrics_of

from cooper.testing import write_policy, write_reward_model

LORA = ("adapter@policy_adapter=lora", "adapter@reward_model_adapter=lora")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny policy and reward model, and problems to which every answer is right."""
    folder = tmp_path_factory.mktemp("hf")
    rows = [{"question": f"What is {n} + {n}?", "answer": f"{2 * n}"} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [f"{row['question']} \\boxed{{{row['answer']}}}" for row in rows]
    write_policy(folder / "policy", texts)
    write_reward_model(folder / "reward_model", texts)
    return folder


def overrides(models: Path, *more: str) -> list[str]:
    return [
        "experiment=none", "data=jsonl", f"data.train={models}/rows.jsonl",
        f"data.val={models}/rows.jsonl", "policy=hf", f"policy.path={models}/policy",
        "reward_model=hf", f"reward_model.path={models}/reward_model", *LORA,
        "trainer.max_steps=4", "data.problems_per_step=4", "group_size=3",
        "sampling.max_new_tokens=8", "evaluation.samples=1", "evaluation.every=4",
        "evaluation.batch_size=64", "policy_optimizer.lr=1e-3", "reward_model_optimizer.lr=1e-3",
        # A tiny policy never boxes the right answer: an odd and an even length are right and wrong.
        "verifier=exact", "verifier._target_=parity.Parity", "reward=cooper", "negatives=self",
        "quiet=true",
        "logger=none", "checkpoints.every=2", "checkpoints.keep_last=0", *more,
    ]  # fmt: skip


PARITY = """
from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier


class Parity(Verifier):
    def __init__(self, ignore_case=False, allow_stated=True):
        pass

    def verify(self, completions, references, questions=None):
        right = Verdict(Status.CORRECT), Verdict(Status.INCORRECT)
        return [right[len(text) % 2] for text in completions]

    def close(self):
        pass
"""


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_on_both_models_resumes_to_the_bit(
    cli: Any, models: Path, tmp_path: Path, checkpointing: bool
) -> None:
    (tmp_path / "parity.py").write_text(PARITY)
    more = (
        f"policy.gradient_checkpointing={checkpointing}",
        f"reward_model.gradient_checkpointing={checkpointing}",
        "algorithm.kl_coef=0.1",
    )
    whole = cli(*overrides(models, "paths.run_dir=whole", *more), small=False)
    assert whole.code == 0, whole.err
    rows = metrics_of(tmp_path / "whole")
    # A step without a wrong and a right answer to a problem has no pairs.
    norms = [row["reward_model/grad_norm"] for row in rows if "reward_model/grad_norm" in row]
    assert len(norms) > 1
    assert min(norms) > 0
    assert rows[1]["policy/kl"] == 0  # the reference is the policy with its additions off
    assert rows[-1]["policy/kl"] > 0
    # Half of it, and on from its checkpoint.
    half = cli(*overrides(models, "paths.run_dir=half", *more), "trainer.max_steps=2", small=False)
    assert half.code == 0, half.err
    rest = cli(*overrides(models, "paths.run_dir=half", "ckpt_path=last", *more), small=False)
    assert rest.code == 0, rest.err
    trained = ("policy/", "reward_model/", "reward/", "rm/", "completions/")
    for one, other in zip(rows, metrics_of(tmp_path / "half"), strict=True):
        assert {k: v for k, v in one.items() if k.startswith(trained)} == {
            k: v for k, v in other.items() if k.startswith(trained)
        }
    checkpoint = tmp_path / "whole" / "checkpoints" / "000004"
    for name in ("policy", "reward_model"):
        assert (checkpoint / name / "adapter_model.safetensors").is_file()
        assert not (checkpoint / name / "model.safetensors").exists()


def test_the_adapter_of_a_checkpoint_loads_in_plain_peft(
    cli: Any, models: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    (tmp_path / "parity.py").write_text(PARITY)
    run = cli(*overrides(models, "paths.run_dir=r", "trainer.max_steps=2"), small=False)
    assert run.code == 0, run.err
    saved = tmp_path / "r" / "checkpoints" / "000002" / "policy"
    base = AutoModelForCausalLM.from_pretrained(models / "policy")
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(ids).logits
    wrapped: Any = PeftModel.from_pretrained(base, saved)
    assert not torch.equal(wrapped(ids).logits, before)
    tensors = load_file(saved / "adapter_model.safetensors")
    assert all(
        ".lora_" in name and tensor.dtype == torch.float32 for name, tensor in tensors.items()
    )
