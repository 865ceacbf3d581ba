"""Tiny checkpoints: in the form in which the families' own are published."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from cooper import testing
from cooper.data.prompts import PromptBuilder
from cooper.models import Policy, RewardModel, load_causal_lm, load_tokenizer
from cooper.samplers.hf import end_token_ids
from cooper.testing import Family, write_policy, write_reward_model
from cooper.types import Problem

TEXTS = ["What is 3 + 4? Tom's 12345 apples", "So the answer is \\boxed{7}."]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_policy(folder / "policy", TEXTS, family="llama")
    write_reward_model(folder / "reward_model", TEXTS, family="llama")
    return folder


def test_a_llama_is_a_llama_to_transformers(llama: Path) -> None:
    assert type(AutoModelForCausalLM.from_pretrained(llama / "policy")) is LlamaForCausalLM
    reward = AutoModelForSequenceClassification.from_pretrained(llama / "reward_model")
    assert type(reward) is LlamaForSequenceClassification
    assert reward.config.num_labels == 1


def test_a_llamas_prompt_begins_once(llama: Path) -> None:
    """Its tokenizer puts <|begin_of_text|> before a text, and its template writes it too."""
    tokenizer = AutoTokenizer.from_pretrained(llama / "policy")
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    prompt = PromptBuilder(tokenizer, "Be brief.", None)(Problem("p", " 1 + 1? ", "2"))
    assert prompt.text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n1 + 1?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert list(prompt.ids).count(tokenizer.bos_token_id) == 1
    assert prompt.ids[0] == tokenizer.bos_token_id


def test_a_llama_pads_with_its_end_and_has_two_ends(llama: Path) -> None:
    path = str(llama / "policy")
    assert AutoTokenizer.from_pretrained(path).pad_token_id is None
    tokenizer = load_tokenizer(path)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|eot_id|>"
    ends = cast("list[int]", tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"]))
    assert end_token_ids(Policy(load_causal_lm(path), tokenizer)) == sorted(ends)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("text", ["Tom's 12345 apples ", "unseen: ß ½ \U0001f4a9\n\t  x"])
def test_any_text_decodes_to_itself(family: Family, text: str) -> None:
    tokenizer = testing.tiny_tokenizer(TEXTS, family=family)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_the_weights_are_the_seeds_alone(family: Family, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_policy(tmp_path / name, TEXTS, hidden_size=16, seed=seed, family=family)
    files = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]
    assert torch.equal(before, torch.get_rng_state())


def test_the_command_writes_a_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "train.jsonl"
    texts.write_text(json.dumps({"question": "1 + 1?", "answer": "2"}) + "\n")
    arguments = ["--texts", str(texts), "--family", "llama", "--hidden-size", "16"]
    monkeypatch.setattr(sys, "argv", ["testing", str(tmp_path / "models"), *arguments])
    testing.main()
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "models" / name) for name in ("policy", "reward_model")
    ]
    config = json.loads((tmp_path / "models" / "reward_model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    tokenizer = load_tokenizer(str(tmp_path / "models" / "reward_model"))
    model = RewardModel.from_pretrained(tmp_path / "models" / "reward_model")
    rows = model.tokenise(["1 + 1?"], ["2"], ["It is 2."])
    assert tokenizer.bos_token_id not in rows[0]  # the template alone says what is read
