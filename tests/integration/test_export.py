"""What a run leaves for others: models that transformers loads without this library."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from cooper import hub
from cooper.models import RewardModel
from cooper.models.reward_model import NoRecord
from cooper.testing import write_policy, write_reward_model

ROWS = [
    {
        "question": f"Natalia sold {n} clips in April and half as many in May. "
        "How many clips did she sell altogether?",
        "answer": f"{n + n // 2}",
    }
    for n in range(10, 60, 2)
]
# Logits of the models as the run's last step left them, written by a callback of the run's.
PROBE = """
import torch
from lightning import Callback

class Probe(Callback):
    def on_train_end(self, trainer, module):
        ids = torch.arange(3, 203).view(2, 100)
        with torch.no_grad():
            found = {
                "policy": module.policy.model.eval()(input_ids=ids).logits,
                "reward_model": module.reward_model.model.eval()(input_ids=ids[:1]).logits,
            }
        torch.save({"ids": ids, **found}, "probe.pt")
"""
# Somebody else's program, in a process that never sees this library.
FRESH = """
import os, sys, torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

torch.set_num_threads(1)
run = sys.argv[1]
probe = torch.load("probe.pt", weights_only=True)
kinds = {"policy": AutoModelForCausalLM, "reward_model": AutoModelForSequenceClassification}
found = {}
for name, kind in kinds.items():
    ids = probe["ids"] if name == "policy" else probe["ids"][:1]
    if os.path.exists(f"{run}/{name}/adapter_config.json"):
        from peft import PeftConfig, PeftModel

        base = PeftConfig.from_pretrained(f"{run}/{name}").base_model_name_or_path
        more = {} if name == "policy" else {"num_labels": 1}
        model = PeftModel.from_pretrained(kind.from_pretrained(base, **more), f"{run}/{name}")
    else:
        model, info = kind.from_pretrained(f"{run}/{name}", output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    AutoTokenizer.from_pretrained(f"{run}/{name}")
    with torch.no_grad():
        found[name] = model.eval()(input_ids=ids).logits
assert "cooper" not in sys.modules
assert "peft" not in sys.modules or "adapter" in sys.argv
torch.save(found, "fresh.pt")
"""


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def checkpoints(request, tmp_path_factory):
    """Tiny policy and reward model of a family, and data."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    labelled = [
        {
            "question": row["question"],
            "reference": row["answer"],
            "completion": f"So it is \\boxed{{{int(row['answer']) + wrong}}}.",
            "label": not wrong,
        }
        for row in ROWS
        for wrong in (0, 1)
    ]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    texts = [row["question"] for row in ROWS]
    write_policy(folder / "policy", texts, family=request.param)
    write_reward_model(folder / "reward_model", texts, family=request.param)
    return folder


def run(cli, checkpoints, *overrides):
    """Two steps, at rates that move every weight."""
    Path("probe.py").write_text(PROBE)
    sys.modules.pop("probe", None)
    result = cli(
        "data=jsonl",
        f"data.train={checkpoints}/rows.jsonl",
        f"data.val={checkpoints}/rows.jsonl",
        f"data.labelled={checkpoints}/labelled.jsonl",
        "policy=hf",
        f"policy.path={checkpoints}/policy",
        "reward_model=hf",
        f"reward_model.path={checkpoints}/reward_model",
        "reward_objective=pairwise_replay",
        "policy_optimizer.lr=1e-2",
        "policy_optimizer.warmup_steps=0",
        "reward_model_optimizer.lr=1e-2",
        "reward_model_optimizer.warmup_steps=0",
        "paths.run_dir=r",
        "trainer.max_steps=2",
        "data.problems_per_step=4",
        "group_size=4",
        "sampling.max_new_tokens=8",
        "evaluation.samples=2",
        "quiet=true",
        "logger=none",
        "+callbacks.probe._target_=probe.Probe",
        *overrides,
        small=False,
    )
    assert result.code == 0, result.err
    return result


def loaded_elsewhere(folder="r", form="merged"):
    """Logits of the exported models in a fresh process, beside those of the run."""
    command = [sys.executable, "-c", FRESH, folder, form]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load("fresh.pt", weights_only=True), torch.load("probe.pt", weights_only=True)


def test_plain_transformers_computes_what_the_run_did(cli, checkpoints, tmp_path):
    run(cli, checkpoints)
    fresh, kept = loaded_elsewhere()
    start, _ = loaded_elsewhere(str(checkpoints))
    for name in ("policy", "reward_model"):
        assert torch.equal(fresh[name], kept[name])
        assert not torch.allclose(start[name], kept[name], atol=1e-3)  # both have been trained

    # What belongs to the policy besides its weights: the base's own, as it was.
    for file in ("chat_template.jinja", "generation_config.json"):
        given, written = (checkpoints / "policy" / file), (tmp_path / "r" / "policy" / file)
        assert given.read_text() == written.read_text()
    tokenizers = [
        AutoTokenizer.from_pretrained(f / "policy") for f in (checkpoints, tmp_path / "r")
    ]
    text = "Natalia sold 48 clips<|im_end|><|eot_id|>"
    assert tokenizers[0](text)["input_ids"] == tokenizers[1](text)["input_ids"]
    # A classifier pads rows of a batch, and has to find each row's last token.
    config = json.loads((tmp_path / "r" / "reward_model" / "config.json").read_text())
    assert config["pad_token_id"] is not None


LORA = (
    "adapter@policy_adapter=lora",
    "adapter@reward_model_adapter=lora",
    "policy.gradient_checkpointing=true",
)


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_what_lora_trained_is_what_others_load(cli, checkpoints, tmp_path, form):
    run(cli, checkpoints, *LORA, f"export.form={form}")
    fresh, kept = loaded_elsewhere(form=form)
    start, _ = loaded_elsewhere(str(checkpoints))
    for name in ("policy", "reward_model"):
        torch.testing.assert_close(fresh[name], kept[name], rtol=0, atol=1e-5)
        assert not torch.allclose(start[name], kept[name], atol=1e-3)
        written = {path.name for path in (tmp_path / "r" / name).iterdir()}
        assert ("adapter_model.safetensors" in written) == (form == "adapter")
        assert ("model.safetensors" in written) == (form == "merged")
        card = ModelCard.load(tmp_path / "r" / name / "README.md")
        assert card.data.library_name == ("peft" if form == "adapter" else "transformers")
    for file in ("chat_template.jinja", "generation_config.json"):
        given, written = (checkpoints / "policy" / file), (tmp_path / "r" / "policy" / file)
        assert given.read_text() == written.read_text()
    # And this library reads its own, with the reward model's template and head.
    texts = (["1 + 1?"], ["2"], ["It is 2."])
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoRecord)
        again = RewardModel.from_pretrained(tmp_path / "r" / "reward_model")
    rows = again.tokenise(*texts)
    with torch.no_grad():
        logits = again.model(input_ids=torch.tensor([list(rows[0])])).logits[:, 0]
    torch.testing.assert_close(again.score(*texts), logits, rtol=0, atol=1e-5)


def test_one_model_by_lora_and_the_other_in_full(cli, checkpoints, tmp_path):
    run(cli, checkpoints, LORA[0], "export.form=adapter")
    fresh, kept = loaded_elsewhere(form="adapter")
    for name in ("policy", "reward_model"):
        torch.testing.assert_close(fresh[name], kept[name], rtol=0, atol=1e-5)
    assert (tmp_path / "r" / "policy" / "adapter_config.json").is_file()
    assert (tmp_path / "r" / "reward_model" / "model.safetensors").is_file()
    card = ModelCard.load(tmp_path / "r" / "reward_model" / "README.md")
    assert card.data.library_name == "transformers"


def test_cards_tell_the_run(cli, checkpoints, tmp_path):
    run(cli, checkpoints)
    card = ModelCard.load(tmp_path / "r" / "policy" / "README.md")
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").open()]
    found = {
        result.metric_type: result.metric_value
        for result in card.data.eval_results
        if result.dataset_name == "rows"
    }
    assert set(found) == {"avg_at_2", "pass_at_2", "maj_at_2", "greedy"}
    assert found["avg_at_2"] == round(metrics[-1]["val/rows/avg_at_2"], 4)
    assert "2 of 2 RL steps" in card.text
    reward = ModelCard.load(tmp_path / "r" / "reward_model" / "README.md")
    assert "RewardModel.from_pretrained" in reward.text
    for text in (str(card), str(reward)):
        assert str(tmp_path) not in text  # nobody else's business
        assert str(checkpoints) not in text


class StandIn:
    """What the hub's client would have been asked, at the boundary of the network."""

    calls: ClassVar[list] = []
    refused: str | None = None

    def whoami(self):
        return {"name": "me", "orgs": [{"name": "lab"}]}

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        StandIn.calls.append(("create", repo_id, private))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if repo_id == StandIn.refused:
            raise ConnectionError("the line is dead.\nand more")
        names = {path.name for path in Path(folder_path).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
        assert (Path(folder_path).parent / "summary.json").is_file()  # all of the run is there
        StandIn.calls.append(("upload", repo_id, Path(folder_path).name, commit_message))


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(StandIn, "calls", [])
    monkeypatch.setattr(StandIn, "refused", None)
    monkeypatch.setattr(hub, "HfApi", StandIn)
    return StandIn


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "labelled.jsonl").write_text(
        json.dumps({"question": "1", "reference": "1", "completion": "1", "label": True}) + "\n"
        + json.dumps({"question": "1", "reference": "1", "completion": "2", "label": False}) + "\n"
    )  # fmt: skip
    write_policy(folder / "policy", [row["question"] for row in ROWS])
    write_reward_model(folder / "reward_model", [row["question"] for row in ROWS])
    return folder


def test_nothing_is_pushed_unasked(cli, qwen, stand_in):
    run(cli, qwen, "trainer.max_steps=1")
    assert stand_in.calls == []


def test_both_models_are_pushed_at_the_end(cli, qwen, stand_in):
    result = run(cli, qwen, "trainer.max_steps=1", "export.push_to_hub=lab/maths", "name=clips")
    assert stand_in.calls == [
        ("create", "lab/maths", True),
        ("upload", "lab/maths", "policy", "clips: 1 RL steps"),
        ("create", "lab/maths-reward-model", True),
        ("upload", "lab/maths-reward-model", "reward_model", "clips: 1 RL steps"),
    ]
    assert "https://huggingface.co/lab/maths-reward-model" in result.out
    assert 'from_pretrained("lab/maths")' in Path("r/policy/README.md").read_text()


def test_a_run_that_did_not_end_is_not_pushed(cli, qwen, stand_in, tmp_path):
    """Stopped by its own callback after the first of two steps."""
    stopping = (
        PROBE + "    def on_train_batch_end(self, trainer, *rest): trainer.should_stop = True\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "PROBE", stopping)
        result = run(cli, qwen, "export.push_to_hub=lab/maths")
    assert json.loads(Path("r/summary.json").read_text())["status"] == "stopped"
    assert stand_in.calls == []
    assert "nothing goes to the hub" in result.out
    assert Path("r/policy/model.safetensors").is_file()


def test_a_failed_push_loses_nothing(cli, qwen, stand_in):
    stand_in.refused = "me/maths-reward-model"
    with pytest.raises(AssertionError, match=r"export\.push_to_hub") as told:
        run(cli, qwen, "trainer.max_steps=1", "export.push_to_hub=me/maths", "export.private=false")
    lines = [line for line in str(told.value).splitlines() if "cooper-train: error" in line]
    assert len(lines) == 1
    for text in (
        "me/maths-reward-model could not be written (the line is dead)",
        "hf upload --no-private me/maths-reward-model",
    ):
        assert text in lines[0]
    assert "hf upload --no-private me/maths " not in lines[0]  # that one has arrived
    assert json.loads(Path("r/summary.json").read_text())["status"] == "finished"
    assert Path("r/reward_model/model.safetensors").is_file()
    assert ("create", "me/maths", False) in stand_in.calls


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("somebody/maths", ["account is me", "me/NAME, lab/NAME"]),
        ("maths", ["has no owner", "owner/name"]),
        ("me/a b", ["export.push_to_hub=me/a b", "owner/name"]),
    ],
)
def test_a_target_that_cannot_be_is_told_before_anything_is_built(cli, stand_in, target, expected):
    result = cli(f"export.push_to_hub='{target}'", "trainer.max_steps=1", small=False)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    for text in expected:
        assert text in result.err
    assert stand_in.calls == []
    assert not Path("runs").exists()


def test_no_account_is_told_before_anything_is_built(cli, monkeypatch):
    """The real client, which the tests keep offline."""
    result = cli("export.push_to_hub=me/maths", "trainer.max_steps=1", small=False)
    assert result.code == 2
    assert "export.push_to_hub=me/maths" in result.err
    assert "hf auth login" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not Path("runs").exists()
