"""A reward model's folder says how it is to be read."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import cooper
from cooper.errors import ModelError
from cooper.models import Policy, RewardModel, RewardTemplate
from cooper.models.average import averaged
from cooper.models.reward_heads import ImplicitHead, MeanPoolHead, ScalarHead
from cooper.models.reward_model import NoRecord

OTHER = RewardTemplate(max_characters=100, head_characters=30, tail_characters=60)
TEXTS = (["What is 3 + 4?"] * 2, ["7", "9"], ["So \\boxed{7}.", "no"])


@pytest.fixture
def saved(reward_folder: Path, tmp_path: Path) -> Path:
    """A mean-pooling model under a template of its own."""
    with pytest.warns(NoRecord, match="says nothing of its template and head"):
        model = RewardModel.from_pretrained(reward_folder, template=OTHER, head=MeanPoolHead())
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


def record_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["cooper_reward"]


def test_what_is_recorded(saved: Path) -> None:
    record = record_of(saved)
    assert record["head"] == {"name": "mean_pool"}
    assert record["template"]["max_characters"] == 100
    assert record["template"]["text"].startswith("<question>{question}</question>")
    assert record["add_special_tokens"] is False


def test_it_comes_back_with_template_head_and_scores(saved: Path, reward_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoRecord)
        model = cooper.RewardModel.from_pretrained(saved)
    assert model.template == OTHER
    assert isinstance(model.head, MeanPoolHead)
    assert not model.training
    again = RewardModel.from_pretrained(saved, template=OTHER, head=MeanPoolHead())
    assert torch.equal(model.score(*TEXTS), again.score(*TEXTS))
    with pytest.warns(NoRecord):
        scalar = RewardModel.from_pretrained(reward_folder)
    assert scalar.template == RewardTemplate()
    assert not torch.equal(model.score(*TEXTS), scalar.score(*TEXTS))


def test_another_template_or_head_is_refused_by_name(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"template max_characters=100.*with max_characters=1500"):
        RewardModel.from_pretrained(saved, template=RewardTemplate())
    with pytest.raises(ModelError, match=r"head name='mean_pool'.*with name='scalar'"):
        RewardModel.from_pretrained(saved, head=ScalarHead())
    loaded = RewardModel.from_pretrained(saved)
    with pytest.raises(ModelError, match=r"text='.*'.*text='\{completion\}'"):
        RewardModel(loaded.model, loaded.tokenizer, RewardTemplate("{completion}", 100, 30, 60))


def test_the_record_survives_export_and_average(saved: Path, tmp_path: Path) -> None:
    model = RewardModel.from_pretrained(saved)
    model.save(tmp_path / "export")
    average = averaged(model, 0.9).module
    average.save(tmp_path / "average")
    for name in ("export", "average"):
        assert record_of(tmp_path / name) == record_of(saved)
        again = RewardModel.from_pretrained(tmp_path / name)
        assert torch.equal(again.score(*TEXTS), model.score(*TEXTS))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9},
        {"head": {"name": "nose"}},
        {"template": {"text": "x", "colour": 1}},
        {"head": {"name": "process", "steps": "lines", "pool": "min"}},
        {"add_special_tokens": True},
    ],
    ids=str,
)
def test_a_record_of_another_kind(saved: Path, change: dict) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["cooper_reward"].update(change)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cooper_reward cannot be read"):
        RewardModel.from_pretrained(saved)


def test_an_implicit_model_finds_its_reference_again(policy: Policy, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    policy.save(reference)
    head = ImplicitHead(beta=0.1, reference=str(reference))
    with pytest.warns(NoRecord):
        model = RewardModel.from_pretrained(reference, head=head)
    with torch.no_grad():
        model.model.model.norm.weight.mul_(1.1)
    model.save(tmp_path / "implicit")
    again = RewardModel.from_pretrained(tmp_path / "implicit")
    assert again.score(*TEXTS).abs().min() > 0
    assert torch.equal(again.score(*TEXTS), model.score(*TEXTS))
    assert record_of(tmp_path / "implicit")["head"]["beta"] == 0.1
    shutil.rmtree(reference)
    with pytest.raises(ModelError, match=r"reference=.*no such folder"):
        RewardModel.from_pretrained(tmp_path / "implicit")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"path=.*no such folder"):
        RewardModel.from_pretrained(tmp_path / "none")
    with pytest.raises(ModelError, match=r"path=.*no config\.json"):
        RewardModel.from_pretrained(tmp_path)
