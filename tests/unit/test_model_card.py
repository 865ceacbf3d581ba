"""The model card: what a run says of the model that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from cooper.monitoring import Alarm
from cooper.report.model_card import Exported, data_names, is_hub_id, model_card
from cooper.run_folder import RunFolder

CONFIG = {
    "name": "maths",
    "seed": 3,
    "policy": {"_target_": "cooper.models.sources.Pretrained", "path": "Qwen/Qwen2.5-1.5B"},
    "reward_model": {"_target_": "x.Pretrained", "path": "/home/me/secret/verifyrm"},
    "reward": {"_target_": "cooper.rewards.ModelReward", "train_model": True},
    "verifier": {"_target_": "cooper.verifiers.MathVerifier", "note": "a | b\nc: d"},
    "negatives": {"_target_": "cooper.negatives.Assistant", "base_url": "http://10.0.0.7:8000/v1"},
    "data": {
        "train": {"_target_": "x.Table", "path": "zwhe99/DeepMath-103K"},
        "val": {"gsm8k": {"_target_": "x.Table", "path": "openai/gsm8k"}, "own": "/data/own.jsonl"},
    },
    "trainer": {"max_steps": 180, "threads": 7},
    "evaluation": {"samples": 8, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 3072},
    "paths": {"root": "/home/me/secret/runs"},
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    machine = {"python": "3.11.7", "packages": {"torch": "2.13.0", "math-verify": None}}
    folder.describe(yaml.safe_dump(CONFIG), machine, 0)
    for step, score in ((0, 0.5), (60, 0.62341)):
        folder.append_metrics(
            step,
            {
                "val/gsm8k/avg_at_8": score,
                "val/gsm8k.easy/avg_at_8": 0.9,
                "val/own/greedy": score / 2,
                "reward_model/auroc": 0.7 + step / 1000,
            },
        )
    return folder


def test_the_hub_reads_the_policys_card(run: RunFolder) -> None:
    card = ModelCard(model_card(run, Exported("policy", steps=60, repository="me/maths")))
    data = card.data
    assert data.base_model == "Qwen/Qwen2.5-1.5B"
    assert data.datasets == ["zwhe99/DeepMath-103K"]
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert data.model_name == "maths"
    found = {(r.dataset_name, r.dataset_type, r.metric_type): r.metric_value
             for r in data.eval_results}  # fmt: skip
    assert found == {
        ("gsm8k", "openai/gsm8k", "avg_at_8"): 0.6234,
        ("own", "own", "greedy"): 0.3117,
    }
    assert "| gsm8k.easy avg@8 |" in card.text  # a part of a set is no set of the hub's
    assert "| gsm8k avg@8 | 0.500 | 0.623 | 60 |" in card.text
    assert "trained for 60 of 180 RL steps" in card.text
    assert "- torch 2.13.0" in card.text
    assert "math-verify" not in card.text  # it was not there
    settings = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    assert settings["seed"] == 3
    assert settings["verifier"] == CONFIG["verifier"]


def test_a_card_names_no_place_of_the_machine(run: RunFolder) -> None:
    for role in ("policy", "reward_model", "reward_model_average"):
        text = model_card(run, Exported(role, steps=60))
        for place in ("secret", "/data", "10.0.0.7", str(run.path)):
            assert place not in text
        assert "verifyrm" in text  # but the last part of a path


def test_the_reward_models_card(run: RunFolder) -> None:
    card = ModelCard(model_card(run, Exported("reward_model", steps=60)))
    assert card.data.base_model is None  # a local folder is no model of the hub's
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.eval_results is None
    assert "| AUROC, on the policy's rollouts | 0.760 | 0.760 |" in card.text
    assert "left as it was" not in card.text
    frozen = model_card(run, Exported("reward_model", steps=60, trained=False))
    assert "left as it was" in frozen


def test_an_adapters_card(run: RunFolder) -> None:
    card = ModelCard(model_card(run, Exported("policy", steps=60, adapter=True)))
    assert card.data.library_name == "peft"
    assert card.data.base_model == "Qwen/Qwen2.5-1.5B"
    assert "AutoPeftModelForCausalLM" in card.text


def test_alarms_are_told(run: RunFolder) -> None:
    assert "Alarms" not in model_card(run, Exported("policy", steps=60))
    alarm = Alarm(40, "gap", "hacking/gap", 0.4, 0.25, "the gap is 0.4", "none")
    run.append_alarm(alarm, [])
    assert "- step 40: the gap is 0.4" in model_card(run, Exported("policy", steps=60))


def test_a_run_without_evaluation_or_settings_has_a_card(tmp_path: Path) -> None:
    card = ModelCard(model_card(RunFolder(tmp_path), Exported("policy", steps=0)))
    assert card.data.eval_results is None
    assert "own first stages" in card.text
    assert "## Evaluation" not in card.text


def test_names_of_data() -> None:
    mixture = {"_target_": "x.Mixture", "sources": {"a": "a.jsonl", "b": {"path": "me/b"}}}
    assert list(data_names(mixture)) == ["a.jsonl", "me/b"]
    assert list(data_names({"_target_": "x.ArithmeticProblems"})) == ["ArithmeticProblems"]
    assert list(data_names(None)) == []


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("me/maths")
    assert is_hub_id("gpt2")
    (tmp_path / "me" / "maths").mkdir(parents=True)
    assert not is_hub_id("me/maths")
    assert not is_hub_id("/me/maths")
    assert not is_hub_id("a/b/c")
