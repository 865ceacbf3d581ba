"""cooper-train-reward on tiny folders and files, end to end; and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from small_runs import SMALL, metrics_of

from cooper.cli.train_reward import main
from cooper.models import RewardModel
from cooper.stages import StageCache
from cooper.testing import write_policy, write_reward_model

ROWS = [
    {
        "question": f"What is {a} + {b}?",
        "reference_answer": str(a + b),
        "completion": f"{a} + {b} = {a + b + shift}\n\nSo \\boxed{{{a + b + shift}}}.",
        "label": int(shift == 0),
        "step_labels": [int(shift == 0)] * 2,
    }
    for a in range(5)
    for b in range(6)
    for shift in (0, 1)
]
TINY = ("quiet=true", "trainer.accelerator=cpu", "reward_training.batch_size=8")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled set in the published Parquet form, a causal LM, a classifier."""
    folder = tmp_path_factory.mktemp("given")
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "labelled.parquet")
    texts = [row["question"] + row["completion"] for row in ROWS]
    write_policy(folder / "policy", texts)
    write_reward_model(folder / "classifier", texts)
    return folder


@pytest.fixture
def reward_cli(tmp_path, monkeypatch, capsys):
    """``reward_cli("data.train=...")``: exit code, output, error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def call(*overrides: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cooper-train-reward", *overrides])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


def real(given: Path, *more: str, data: str = "labelled.parquet") -> tuple[str, ...]:
    return (f"data.train={given}/{data}", f"backbone.path={given}/policy", *TINY, *more)


LOAD = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
template = model.config.cooper_reward["template"]["text"]
texts = [template.format(**row) for row in json.load(sys.stdin)]
with torch.no_grad():
    together = model(**tokenizer(texts, padding=True, padding_side="right", return_tensors="pt"))
print(json.dumps(together.logits[:, 0].tolist()))
assert not [name for name in sys.modules if name.split(".")[0] == "cooper"]
"""


def test_the_published_form_and_transformers_alone(reward_cli, given, tmp_path):
    code, out, err = reward_cli(*real(given, "paths.run_dir=r", "reward_training.epochs=1"))
    assert code == 0, err
    assert "held out: accuracy" in out
    run = tmp_path / "r"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["rows"]["train"] + summary["rows"]["heldout"] == len(ROWS)
    assert len(metrics_of(run)) == 6  # 48 rows in batches of 8
    assert json.loads((run / "reward_model" / "quality.json").read_text()) == summary["heldout"]
    held = [json.loads(line) for line in (run / "heldout.jsonl").read_text().splitlines()]
    assert len(held) == 12
    triples = [{"question": r["question"], "reference": r["reference_answer"],
                "completion": r["completion"]} for r in ROWS[:9]]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(run / "reward_model")],
        input=json.dumps(triples), capture_output=True, text=True, check=True,
    )  # fmt: skip
    model = RewardModel.from_pretrained(run / "reward_model")
    ours = model.score(*([t[key] for t in triples] for key in ("question", "reference",
                                                              "completion")))  # fmt: skip
    alone = torch.tensor(json.loads(done.stdout))
    torch.testing.assert_close(ours, alone, rtol=0, atol=1e-5)
    assert len(set(ours.tolist())) > 5


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("head", ["scalar", "mean_pool", "process", "implicit"])
def test_every_head_and_adapter(reward_cli, given, tmp_path, head, adapter):
    code, _, err = reward_cli(
        *real(given, "paths.run_dir=r", f"reward_head={head}", f"adapter={adapter}",
              "reward_training.steps=4", "reward_training.evaluate_every=2",
              "reward_training.optimizer.lr=1e-2")
    )  # fmt: skip
    assert code == 0, err
    model = RewardModel.from_pretrained(tmp_path / "r" / "reward_model")
    assert model.head.name == head
    rows = metrics_of(tmp_path / "r")
    assert [row["reward_model/loss"] > 0 for row in rows] == [True] * 4
    held = [json.loads(x) for x in (tmp_path / "r" / "heldout.jsonl").read_text().splitlines()]
    scores = model.score(*([row[k] for row in held] for k in ("question", "reference_answer",
                                                             "completion")))  # fmt: skip
    labels = torch.tensor([row["label"] for row in held])
    accuracy = float(((scores > 0).long() == labels).float().mean())
    quality = json.loads((tmp_path / "r" / "reward_model" / "quality.json").read_text())
    assert accuracy == pytest.approx(quality["accuracy"])


def test_a_given_heldout_file_swaps_and_a_trained_backbone(reward_cli, given, tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS[:8])
    (tmp_path / "held.jsonl").write_text(lines)
    first = ("paths.run_dir=a", "reward_training.steps=2", "data.heldout=held.jsonl")
    swaps = ("reward_training.swapped_share=0.25", "verifier=numeric", "data.max_characters=80")
    code, out, err = reward_cli(*real(given, *first, *swaps))
    assert code == 0, err
    assert "8 rows dropped, data.heldout has their questions" in out
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert (summary["rows"]["heldout"], summary["rows"]["train"]) == (8, len(ROWS) - 8)
    again = [f"backbone.path={tmp_path}/a/reward_model", "reward_head=mean_pool"]
    code, out, err = reward_cli(*real(given, "paths.run_dir=b", "reward_training.steps=2"), *again)
    assert code == 0, err
    assert "was trained with another template or head" in out
    assert RewardModel.from_pretrained(tmp_path / "b" / "reward_model").head.name == "mean_pool"


def test_the_published_recipe_composes_and_runs(reward_cli, given, tmp_path):
    code, _, err = reward_cli(
        "experiment=verifyrm_qwen", f"data.train={given}/labelled.parquet",
        f"backbone.path={given}/policy", "paths.run_dir=r", "reward_training.steps=2",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    assert code == 0, err
    config = (tmp_path / "r" / "config.yaml").read_text()
    for line in ("lr: 2.0e-05", "weight_decay: 0.01", "precision: bf16-mixed", "epochs: 3",
                 "max_characters: 8000", "balanced: false"):  # fmt: skip
        assert line in config


def test_the_embedded_task_shares_the_stages_of_cooper_train(cli, reward_cli, stage_cache):
    assert cli("trainer.max_steps=1", "paths.run_dir=rl").code == 0
    stages = ("data.train.", "warm_start.", "annotation.")
    shared = ",".join(f"'{o}'" for o in SMALL if o.startswith(stages))
    code, out, err = reward_cli(
        "quiet=true", f"embedded=[{shared}]", "reward_training.steps=2", "paths.run_dir=r",
        f"paths.cache_dir={stage_cache}",
    )  # fmt: skip
    assert code == 0, err
    for stage in ("warm_start", "annotation"):
        assert f"{stage}: unchanged settings, taken from the cache" in out


def test_rl_takes_an_implicit_model_from_its_folder(cli, reward_cli, given, tmp_path):
    code, _, err = reward_cli(
        *real(given, "paths.run_dir=m", "reward_head=implicit", "reward_training.steps=2")
    )
    assert code == 0, err
    result = cli(
        "reward_model=hf", f"reward_model.path={tmp_path}/m/reward_model", "trainer.max_steps=1",
        "paths.run_dir=r", "checkpoints.every=1",
    )  # fmt: skip
    assert result.code == 0, result.err
    exported = RewardModel.from_pretrained(tmp_path / "r" / "reward_model")
    assert exported.head.name == "implicit"


def test_a_classifier_without_a_record_is_taken_and_said_once(cli, given, tmp_path):
    result = cli(
        "reward_model=hf", f"reward_model.path={given}/classifier", "trainer.max_steps=1",
        "paths.run_dir=r",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.out.count("says nothing of its template and head") == 1
    config = json.loads((tmp_path / "r" / "reward_model" / "config.json").read_text())
    assert config["cooper_reward"]["head"] == {"name": "scalar"}


# ---------------------------------------------------------------- what is refused


def rows_with(**columns) -> str:
    return "".join(json.dumps({**row, **columns}) + "\n" for row in ROWS[:20])


FILES = {
    "missing column": (json.dumps({"question": "q", "label": 1}) + "\n",
                       ["f.jsonl, line 1", "reference_answer"]),
    "no label": (json.dumps({k: v for k, v in ROWS[0].items() if k != "label"}) + "\n",
                 ["f.jsonl, line 1", "no column 'label'"]),
    "wrong label": (json.dumps({**ROWS[0], "label": "maybe"}) + "\n",
                    ["f.jsonl, line 1", "'maybe'", "1 (right) or 0 (wrong)"]),
    "broken JSON": (rows_with() + "{", ["f.jsonl, line 21", "broken JSON", "column"]),
    "one class": (rows_with(label=1), ["f.jsonl", "20 right and 0 wrong"]),
    "empty": ("", ["f.jsonl", "at least one row"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(reward_cli, given, tmp_path, name):
    text, expected = FILES[name]
    (tmp_path / "f.jsonl").write_text(text)
    refused(reward_cli(*real(given), "data.train=f.jsonl"), expected, tmp_path)


CASES = {
    "no model": (["backbone.path=null"], ["data.train=", "backbone.path=FOLDER_OR_HUB_ID"]),
    "no folder": (["backbone.path=./none"], ["backbone.path=./none", "no such folder"]),
    "no config": (["backbone.path=./"], ["backbone.path=./", "no config.json"]),
    "no file": (["data.train=none.parquet"], ["none.parquet", "no such file"]),
    "nothing left": (["data.max_characters=3"], ["no row is left", "data.max_characters=3"]),
    "stages for files": (["embedded=[a]"], ["embedded=['a']", "leave it out"]),
    "unknown head": (["reward_head=nose"], ["reward_head=nose", "implicit, mean_pool, process"]),
    "swaps of steps": (["reward_head=process", "reward_training.swapped_share=0.25"],
                       ["swapped_share=0.25", "reward_head=process"]),
    "beta": (["reward_head=implicit", "reward_head.beta=-1"], ["beta=-1"]),
    "steps": (["reward_training.epochs=0"], ["reward_training.steps=0"]),
    "patience": (["reward_training.patience=2"], ["patience=2", "evaluate_every"]),
    "misspelt": (["reward_training.evaluate_evry=2"], ["evaluate_evry"]),
    "tokens": (["reward_template=tokens", "reward_template.max_tokens=9"], ["max_tokens=9"]),
    "characters": (["reward_template.head_characters=900"], ["head_characters=900"]),
    "rank": (["adapter=lora", "adapter.rank=0"], ["adapter.rank=0"]),
    "pure bf16": (["trainer.precision=bf16-true"], ["trainer.precision=bf16-true"]),
    "accelerator": (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu"]),
    "nothing held out": (["reward_training.heldout=0", "reward_training.evaluate_every=1"],
                         ["0 right and 0 wrong completions are held out"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_settings(reward_cli, given, tmp_path, name):
    overrides, expected = CASES[name]
    refused(reward_cli(*real(given), *overrides), expected, tmp_path)


def test_step_labels_that_are_missing(reward_cli, given, tmp_path, monkeypatch):
    monkeypatch.setattr(StageCache, "folder", lambda *_: pytest.fail("a stage ran"))
    refused(reward_cli("reward_head=process"), ["reward_head=process", "step labels"], tmp_path)
    rows = [{k: v for k, v in row.items() if k != "step_labels"} for row in ROWS]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = reward_cli(*real(given), "data.train=f.jsonl", "reward_head=process")
    refused(result, ["f.jsonl, line 1", "step_labels"], tmp_path)


def refused(result: tuple[int, str, str], expected: list[str], tmp_path: Path) -> None:
    code, _, err = result
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("cooper-train-reward: error: ")
    for text in expected:
        assert text in lines[0]
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_leaves_no_model(given, tmp_path):
    """130, and nothing that looks finished."""
    command = [
        sys.executable,
        "-m",
        "cooper.cli.train_reward",
        "experiment=none",
        f"data.train={given}/labelled.parquet",
        f"backbone.path={given}/policy",
        "trainer.accelerator=cpu",
        "reward_training.steps=100000",
        "paths.run_dir=r",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    metrics = tmp_path / "r" / "metrics.jsonl"
    while process.poll() is None and not metrics.is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1] == "cooper-train-reward: interrupted"
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "interrupted"
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names == {"config.yaml", "environment.json", "heldout.jsonl", "metrics.jsonl",
                     "summary.json"}  # fmt: skip
