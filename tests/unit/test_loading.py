"""What may be loaded as a reward model or policy, and what the others are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2ForSequenceClassification

from cooper.errors import ModelError
from cooper.models import (
    Policy,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
)
from cooper.models.tiny import TinyModel


@pytest.fixture(scope="module")
def policy_folder(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


def test_a_causal_lm_comes_back_as_it_was(policy: Policy, policy_folder: Path) -> None:
    loaded = load_causal_lm(str(policy_folder))
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    assert next(loaded.parameters()).dtype is torch.float32
    assert next(load_causal_lm(str(policy_folder), dtype="bfloat16").parameters()).dtype is (
        torch.bfloat16
    )


def test_a_missing_head_is_an_error(policy_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"reward_model\.path=.*no trained reward head"):
        load_reward_model(str(policy_folder))


def test_a_new_head_is_drawn_from_its_seed(policy_folder: Path) -> None:
    heads = [
        load_reward_model(str(policy_folder), new_head_seed=seed).score.weight for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert 0 < float(heads[0].detach().std()) < 1


def test_allowing_a_new_head_keeps_a_trained_one(reward_folder: Path) -> None:
    kept = load_reward_model(str(reward_folder), new_head_seed=0)
    assert torch.equal(kept.score.weight, load_reward_model(str(reward_folder)).score.weight)
    assert kept.score.weight.abs().sum() > 0


def test_two_labels_are_no_reward_model(reward_folder: Path, tmp_path: Path) -> None:
    Qwen2ForSequenceClassification.from_pretrained(
        reward_folder, num_labels=2, ignore_mismatched_sizes=True
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has 2 labels"):
        load_reward_model(str(tmp_path))


def test_wrong_folders_name_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"policy\.path=.*no such folder"):
        load_causal_lm(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"policy\.path=.*no config\.json"):
        load_causal_lm(str(tmp_path))
    with pytest.raises(ModelError, match=r"my\.key=.*no such folder"):
        load_tokenizer("./none", key="my.key")


def test_a_tokenizer_without_padding_pads_with_its_end(policy_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(policy_folder, tmp_path / "policy")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["pad_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(folder).pad_token_id is None
    loaded = load_tokenizer(str(folder))
    assert (
        loaded.pad_token_id
        == loaded.eos_token_id
        == load_tokenizer(str(policy_folder)).eos_token_id
    )


def test_tiny_weights_are_the_seeds_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    size = TinyModel(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, mlp_size=8)

    def weights(seed: int) -> torch.Tensor:
        return size.build(tokenizer, seed).get_input_embeddings().weight

    before = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("text", ["What is 3 + 4?", "unseen: ß ½ \U0001f4a9\n\t  x", "\\boxed{12}"])
def test_tiny_tokenizer_decodes_any_text_to_itself(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
