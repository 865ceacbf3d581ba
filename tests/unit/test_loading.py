"""What may be loaded as a reward model or policy, and what the others are told."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
    Qwen2ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from cooper.config.build import lacking
from cooper.errors import ModelError
from cooper.models import (
    Policy,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
)
from cooper.models.loading import check_vocabulary
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
    with pytest.raises(ModelError, match=r"reward_model\.path=.*no trained reward head") as told:
        load_reward_model(str(policy_folder))
    for command in ("cooper-annotate", "cooper-train-reward experiment=verifyrm_qwen"):
        assert command in str(told.value)


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
    for seed in (None, 0):  # a new head is for backbones without one
        with pytest.raises(ModelError, match=r"has 2 labels.*cooper-train-reward experiment"):
            load_reward_model(str(tmp_path), new_head_seed=seed)


def test_wrong_folders_name_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"policy\.path=.*no such folder"):
        load_causal_lm(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"policy\.path=.*no config\.json"):
        load_causal_lm(str(tmp_path))
    with pytest.raises(ModelError, match=r"my\.key=.*no such folder"):
        load_tokenizer("./none", key="my.key")


def bert(**kwargs: int) -> BertConfig:
    return BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, **kwargs,
    )  # fmt: skip


def test_what_does_not_write_from_left_to_right_is_no_policy(
    reward_folder: Path, tmp_path: Path
) -> None:
    """Transformers loads all but the T5: an encoder, and a classifier without its head."""
    BertForMaskedLM(bert()).save_pretrained(tmp_path / "bert")
    t5 = T5Config(vocab_size=60, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    for folder, name in (
        (tmp_path / "bert", "BertForMaskedLM"),
        (tmp_path / "t5", "T5ForConditionalGeneration"),
        (reward_folder, "Qwen2ForSequenceClassification"),
    ):
        with pytest.raises(ModelError, match=rf"policy\.path=.*holds a {name}.*ForCausalLM"):
            load_causal_lm(str(folder))


def test_an_encoder_is_no_reward_model(tmp_path: Path) -> None:
    BertForSequenceClassification(bert(num_labels=1)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"BertForSequenceClassification has no score layer"):
        load_reward_model(str(tmp_path))


def changed(source: Path, folder: Path, name: str, values: dict[str, object]) -> Path:
    """A copy of a folder with other values in one of its JSON files."""
    shutil.copytree(source, folder)
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **values}))
    return folder


def test_weights_are_never_random(policy_folder: Path, reward_folder: Path, tmp_path: Path) -> None:
    for source, load in ((policy_folder, load_causal_lm), (reward_folder, load_reward_model)):
        folder = shutil.copytree(source, tmp_path / f"part of {source.name}")
        weights = load_file(folder / "model.safetensors")
        weights.pop("model.layers.1.mlp.up_proj.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"weights are missing \(model\.layers\.1\.mlp\.up"):
            load(str(folder))
        folder = changed(source, tmp_path / source.name, "config.json", {"intermediate_size": 40})
        with pytest.raises(
            ModelError, match=r"down_proj\.weight is stored as \(16, 32\) where .* \(16, 40\)"
        ):
            load(str(folder))


def test_broken_files_are_told_in_one_line(policy_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(policy_folder, tmp_path / "cut")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    other = changed(policy_folder, tmp_path / "other", "config.json", {"model_type": "nope"})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    for path, text in (
        (folder, "cannot load"),
        (other, "`nope`"),
        (adapter, "adapter_config.json cannot be read"),
    ):
        with pytest.raises(ModelError, match=text) as told:
            load_causal_lm(str(path))
        assert "\n" not in str(told.value)


def test_without_the_hub_a_hub_id_is_one_line() -> None:
    """The tests are offline, as a machine without a network is."""
    for load in (load_causal_lm, load_reward_model, load_tokenizer):
        with pytest.raises(
            ModelError, match=r"a\.key=me/none: cannot load .*or give a local"
        ) as told:
            load("me/none", key="a.key")
        assert "\n" not in str(told.value)


def test_a_tokenizer_has_a_vocabulary_and_an_end(policy_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(policy_folder, tmp_path / "none")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match=r"policy\.path=.*no vocabulary.*tokenizer\.json"):
        load_tokenizer(str(folder), key="policy.path")
    endless = changed(policy_folder, tmp_path / "e", "tokenizer_config.json", {"eos_token": None})
    with pytest.raises(ModelError, match=r"no end-of-sequence token.*eos_token"):
        load_tokenizer(str(endless))


def test_every_token_has_a_row_of_the_embedding(policy: Policy, policy_folder: Path) -> None:
    tokenizer = load_tokenizer(str(policy_folder))
    check_vocabulary(policy.model, tokenizer, "here", "policy.path")
    rows = policy.model.get_input_embeddings().weight.shape[0]
    tokenizer.add_tokens([f"word{i}" for i in range(rows - len(tokenizer) + 1)])
    with pytest.raises(
        ModelError, match=rf"policy\.path=here: .* {rows + 1} tokens .* {rows} rows"
    ):
        check_vocabulary(policy.model, tokenizer, "here", "policy.path")


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


def test_what_a_tokenizer_lacks_is_told(tokenizer: PreTrainedTokenizerBase) -> None:
    assert lacking(tokenizer, "policy.path=x") == []
    other = copy.deepcopy(tokenizer)
    other.chat_template = None
    other.pad_token = other.eos_token
    template, padding = lacking(other, "policy.path=x")
    assert template.startswith("policy.path=x: its tokenizer has no chat template; prompts are")
    assert padding.startswith("policy.path=x: its tokenizer has no padding token of its own")
