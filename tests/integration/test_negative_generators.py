"""Where the pairs of a run come from, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import metrics_of, rollouts_of
from transformers import AutoTokenizer

from cooper.negatives import AssistantNegatives
from cooper.testing import write_policy, write_reward_model

MIXED = (
    "negatives=mixed",
    "+negatives.generators.truncate._target_=cooper.negatives.TruncateNegatives",
    "+negatives.generators.assistant._target_=cooper.negatives.AssistantNegatives",
    "+negatives.generators.assistant.prompt='<wrong> {question}'",
    "+negatives.generators.assistant.max_new_tokens=24",
    "+negatives.weights.truncate=1",
    "+negatives.weights.assistant=1",
    "negatives.weights.self=0",
    "negatives.weights.perturb=0",
    "warm_start.wrong_share=0.15",  # as negatives=assistant has it: one stage serves both
)


def pairs_of(folder: Path, steps: int) -> list[dict]:
    """The chosen rollouts of a run, each with its negative."""
    rows = [row for step in range(1, steps + 1) for row in rollouts_of(folder, step)]
    return [row for row in rows if row["negative"] is not None]


@pytest.mark.parametrize("extra", [(), ("algorithm.kl_coef=0",)], ids=["reference", "own copy"])
def test_assistant(cli, tmp_path, stage_cache, monkeypatch, extra):
    """With ``kl_coef=0`` there is no reference, and the assistant is a copy of the start."""
    bound = []
    bind = AssistantNegatives.bind

    def seen(self, policy, start):
        bind(self, policy, start)
        bound.append((self._assistant, policy))

    monkeypatch.setattr(AssistantNegatives, "bind", seen)
    result = cli("paths.run_dir=r", "negatives=assistant", "trainer.max_steps=2", *extra)
    assert result.code == 0, result.err
    pairs = pairs_of(tmp_path / "r", 2)
    assert pairs
    for row in pairs:
        assert row["role"] == "chosen"
        assert row["negative_source"] == "assistant"
        assert row["negative"] != row["completion"]
    built = [row.get("pairs/built", 0) for row in metrics_of(tmp_path / "r")]
    assert sum(built) == len(pairs)
    # One model, frozen: the policy has gone on, the assistant is still the warm start.
    ((assistant, policy),) = bound
    assert assistant is not policy
    starts = [load_file(f) for f in (stage_cache / "warm_start").glob("*/model.safetensors")]
    weights = assistant.model.state_dict()
    assert any(
        all(start[k].shape == weights[k].shape and torch.equal(start[k], weights[k]) for k in start)
        for start in starts
    )
    assert not any(weight.requires_grad for weight in assistant.parameters())
    trained = load_file(tmp_path / "r" / "policy" / "model.safetensors")
    assert not all(torch.equal(trained[k], weights[k]) for k in trained)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "r" / "policy")
    assert tokenizer.decode(tokenizer("<wrong> 1")["input_ids"], skip_special_tokens=True) == " 1"


def test_no_control_token_without_an_assistant(cli, tmp_path):
    assert cli("paths.run_dir=r", "reward=rule", "trainer.max_steps=1").code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "r" / "policy")
    assert "<wrong>" not in tokenizer.get_vocab()


def test_truncate(cli, tmp_path):
    result = cli(
        "paths.run_dir=r", "negatives=truncate", "trainer.max_steps=2", "data.problems_per_step=16"
    )
    assert result.code == 0, result.err
    pairs = pairs_of(tmp_path / "r", 2)
    assert pairs
    for row in pairs:
        assert row["negative_source"] == "truncate"
        assert row["completion"].startswith(row["negative"])
        assert "boxed" not in row["negative"]


def test_mixture_of_the_two(cli, tmp_path):
    result = cli("paths.run_dir=r", *MIXED, "trainer.max_steps=2", "data.problems_per_step=16")
    assert result.code == 0, result.err
    sources = {row["negative_source"] for row in pairs_of(tmp_path / "r", 2)}
    assert sources >= {"truncate", "assistant"}


def test_resumed_with_an_assistant_to_the_bit(cli, tmp_path):
    given = ("negatives=assistant", "checkpoints.every=1", "checkpoints.keep_last=0")
    assert cli("paths.run_dir=whole", *given).code == 0
    assert cli("paths.run_dir=parts", *given, "trainer.max_steps=1").code == 0
    result = cli("paths.run_dir=parts", *given, "ckpt_path=last")
    assert result.code == 0, result.err
    whole, parts = metrics_of(tmp_path / "whole"), metrics_of(tmp_path / "parts")
    # The shorter run has evaluated after its last step, too.
    assert parts[-1] == whole[-1]
    assert pairs_of(tmp_path / "parts", 3) == pairs_of(tmp_path / "whole", 3)


def test_models_from_disk(cli, tmp_path):
    """A chat model, the default prompt, an assistant of its own beside it."""
    rows = [{"question": f"{n} + 1?", "answer": "7"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("policy", "assistant"):
        write_policy(tmp_path / name, ["1 + 1? 7"], seed=len(name))
    write_reward_model(tmp_path / "reward_model", ["1 + 1? 7"])
    (tmp_path / "even.py").write_text(EVEN)
    (tmp_path / "mine" / "verifier").mkdir(parents=True)
    (tmp_path / "mine" / "verifier" / "even.yaml").write_text("_target_: even.EvenLengths\n")
    given = [
        "data=jsonl", "data.train=rows.jsonl", "data.val=rows.jsonl", "policy=hf",
        "policy.path=policy", "reward_model=hf", "reward_model.path=reward_model",
        "trainer.max_steps=2", "data.problems_per_step=4", "group_size=2",
        "sampling.max_new_tokens=8", "evaluation.samples=1", "quiet=true", "logger=none",
        "--config-dir=mine", "verifier=even", "negatives=assistant",
    ]  # fmt: skip
    for extra in ([], ["negatives.path=assistant"]):
        folder = f"r{len(extra)}"
        result = cli(*given, *extra, f"paths.run_dir={folder}", small=False)
        assert result.code == 0, result.err
        counts = metrics_of(tmp_path / folder)[-1]
        asked = sum(v for k, v in counts.items() if k.startswith("pairs/"))
        assert asked == 4


# A model that knows nothing writes nothing right, so half of all texts are called right.
EVEN = """
from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier

class EvenLengths(Verifier):
    def verify(self, completions, references, questions=None):
        return [Verdict(Status.INCORRECT if len(c) % 2 else Status.CORRECT) for c in completions]
"""
