"""cooper-eval: a tiny model on samples of the five sets, killed and gone on with, side by side."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from small_runs import metrics_of

from cooper.cli.eval import main
from cooper.evaluation.answers import Answerer
from cooper.journal import Journal
from cooper.models import load_causal_lm, load_tokenizer
from cooper.models.adapters import LoraAdapter
from cooper.testing import write_policy

SETS = ("gsm8k", "svamp", "math500", "olympiadbench_en", "math_odyssey")
ROWS = Path(__file__).parent.parent / "data" / "benchmarks"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    texts = [line for name in SETS for line in (ROWS / f"{name}.jsonl").read_text().splitlines()]
    return write_policy(folder / "policy", texts)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> tuple[int, str]:
        sets = [f"sets.{name}.path={ROWS / name}.jsonl" for name in SETS]
        small = ["max_new_tokens=6", "samples=4", "batch_size=3", "bootstrap=50", *sets]
        monkeypatch.setattr(sys, "argv", ["cooper-eval", *small, *overrides])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return call


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_the_five_sets(run: Any, model: Path, tmp_path: Path) -> None:
    code, said = run(f"model.path={model}", "output=out")
    assert code == 0, said
    found = results(tmp_path / "out")
    assert list(found["sets"]) == list(SETS)
    for figures in found["sets"].values():
        assert figures["problems"] == 4
        assert figures["samples"] == 4
        assert 0 <= figures["interval_95"][0] <= figures["avg_at_4"] <= figures["interval_95"][1]
        assert figures["pass_at_1"] == pytest.approx(figures["avg_at_4"])
        assert figures["pass_at_1"] <= figures["pass_at_2"] <= figures["pass_at_4"]
        assert 1 <= figures["mean_tokens"] <= 6
    lines = [json.loads(t) for t in (tmp_path / "out" / "completions.jsonl").open()]
    assert len(lines) == 20
    assert all(len(line["samples"]) == 4 and line["greedy"] for line in lines)
    assert {line["samples"][0]["status"] for line in lines} <= {"correct", "incorrect", "undecided"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(f"| {name} |" in report for name in (*SETS, "mean"))
    assert "olympiadbench_en" in said


def test_killed_and_gone_on_with(
    run: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(f"model.path={model}", "output=whole", "only=[gsm8k,svamp]")[0] == 0
    # The process ends in the middle of the third batch's write.
    append, answered = Journal.append, []

    def torn(self: Journal, entries: Any, durable: bool = True) -> None:
        entries = list(entries)
        answered.append(len(entries))
        if len(answered) == 3:
            append(self, entries[:1], durable)
            raise KeyboardInterrupt
        append(self, entries, durable)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", torn)
        code, _ = run(f"model.path={model}", "output=killed", "only=[gsm8k,svamp]")
        assert code == 130
    asked: list[int] = []
    real = Answerer.__call__

    def counted(self: Answerer, prompts: Any, rng: Any) -> Any:
        asked.append(len(prompts))
        return real(self, prompts, rng)

    monkeypatch.setattr(Answerer, "__call__", counted)
    code, said = run(f"model.path={model}", "output=killed", "only=[gsm8k,svamp]")
    assert code == 0, said
    assert asked == [3, 1]  # the first set not again, the torn batch whole
    whole, killed = results(tmp_path / "whole"), results(tmp_path / "killed")
    assert whole["sets"] == killed["sets"]
    texts = [
        sorted((tmp_path / name / "completions.jsonl").read_text().splitlines())
        for name in ("whole", "killed")
    ]
    assert texts[0] == texts[1]
    # Another set may come to the folder; other settings or problems may not.
    assert run(f"model.path={model}", "output=killed", "only=[gsm8k,math500]")[0] == 0
    code, said = run(f"model.path={model}", "output=killed", "temperature=0.5")
    assert code == 2
    assert "temperature: 0.7 -> 0.5" in said
    code, said = run(f"model.path={model}", "output=killed", "sets.gsm8k.limit=2")
    assert code == 2
    assert "answers to another set called gsm8k" in said


def test_killed_by_the_system(run: Any, model: Path, tmp_path: Path) -> None:
    options = (f"model.path={model}", "only=[gsm8k,svamp]", "max_new_tokens=40", "batch_size=1")
    sets = [f"sets.{name}.path={ROWS / name}.jsonl" for name in SETS]
    command = [sys.executable, "-m", "cooper.cli.eval", *sets, "samples=4", "bootstrap=50"]
    written = tmp_path / "killed" / "completions.jsonl"
    process = subprocess.Popen(
        [*command, *options, "output=killed", "quiet=true"], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 120
        while not (written.is_file() and written.read_bytes().count(b"\n") >= 2):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    for output in ("killed", "whole"):
        code, said = run(*options, f"output={output}")
        assert code == 0, said
    assert results(tmp_path / "whole")["sets"] == results(tmp_path / "killed")["sets"]
    assert written.read_bytes() == (tmp_path / "whole" / "completions.jsonl").read_bytes()


def test_an_adapter_answers_as_the_merged_model(run: Any, model: Path, tmp_path: Path) -> None:
    base = load_causal_lm(str(model))
    adapted = LoraAdapter(rank=2).attach(base, seed=0)
    rng = torch.Generator().manual_seed(0)
    for name, weight in base.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.5, generator=rng)
    adapted.save(tmp_path / "adapter")
    load_tokenizer(str(model)).save_pretrained(tmp_path / "merged")
    adapted.merged().save_pretrained(tmp_path / "merged")
    answered = []
    for path in (model, tmp_path / "adapter", tmp_path / "merged"):
        code, said = run(f"model.path={path}", f"output=out_{path.name}", "only=[gsm8k]")
        assert code == 0, said
        rows = (tmp_path / f"out_{path.name}" / "completions.jsonl").read_text().splitlines()
        answered.append([json.loads(row)["greedy"]["completion"] for row in rows])
    assert answered[1] == answered[2]
    assert answered[0] != answered[1]


def test_side_by_side(run: Any, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    assert run(f"model.path={model}", "output=a", "only=[gsm8k,svamp]", "quiet=true")[0] == 0
    assert run(f"model.path={other}", "output=b", "only=[gsm8k]", "quiet=true")[0] == 0
    code, said = run("compare=[a,b]", "output=c")
    assert code == 0, said
    table = (tmp_path / "c" / "comparison.md").read_text()
    assert "| model | gsm8k | svamp | mean |" in table
    assert table.count("| - |") >= 1  # a mean over other sets would say nothing
    assert "differ" not in said + table
    assert run(f"model.path={other}", "output=d", "only=[gsm8k]", "sets.gsm8k.limit=2",
               "temperature=0.5")[0] == 0  # fmt: skip
    code, said = run("compare=[a,d]", "output=c")
    assert code == 0, said
    table = (tmp_path / "c" / "comparison.md").read_text()
    for line in (
        f"temperature: 0.7 ({model}), 0.5 ({other})",
        f"problems of gsm8k: 4 ({model}), 2 ({other})",
    ):
        assert f"- {line}\n" in table
        assert f"the rows differ in more than the model: {line}" in said
    assert "top_p" not in table
    code, said = run("compare=[a,none]", "output=c")
    assert code == 2
    assert "none/results.json: holds no results" in said


def test_a_run_and_its_checkpoints(cli: Any, run: Any, tmp_path: Path) -> None:
    made = cli("paths.run_dir=r", "reward=rule", "checkpoints.every=2", "checkpoints.keep_last=0",
               "prompt.instruction=Count.")  # fmt: skip
    assert made.code == 0, made.err
    step = "r/checkpoints/000002"
    given = {"r": "r/policy", "r/policy": "r/policy", step: f"{step}/policy"}
    given[f"{step}/policy"] = f"{step}/policy"
    for number, (name, where) in enumerate(given.items()):
        code, said = run(f"model.path={name}", f"output=out_{number}", "only=[svamp]")
        assert code == 0, said
        found = tmp_path / f"out_{number}"
        assert results(found)["weights"] == where
        settings = json.loads((found / "settings.json").read_text())
        assert settings["prompt.instruction"] == "Count."  # the run's own
    code, said = run("model.path=r/checkpoints/000001", "only=[svamp]")
    assert code == 2
    assert "it has the checkpoints 000002, 000003" in said


def test_evaluation_inside_training_leaves_its_random_state(cli: Any, tmp_path: Path) -> None:
    for name, every in (("often", 1), ("seldom", 100)):
        run = cli(f"paths.run_dir={name}", f"evaluation.every={every}")
        assert run.code == 0, run.err
    often, seldom = (
        [{k: v for k, v in row.items() if not k.startswith("val/")} for row in rows]
        for rows in (metrics_of(tmp_path / "often"), metrics_of(tmp_path / "seldom"))
    )
    assert len(often) > 2
    assert often[1:] == seldom[1:]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "model.path=null: there is nothing to evaluate"),
        (["model.path=./none"], "model.path=./none: no such folder"),
        (["model.path=x", "only=[aime]"], "no set is called aime; there are gsm8k"),
        (["model.path=x", "samples=0"], "samples=0: give 1 or more"),
        (["model.path=x", "sets.gsm8k.path=none.jsonl"], "none.jsonl: no such file"),
        (["model.path=x", "model.dtype=int8"], "model.dtype=int8: must be auto"),
        (["model.path=x", "smaples=1"], "smaples"),
    ],
)
def test_bad_input(run: Any, overrides: list[str], message: str) -> None:
    code, said = run(*overrides, "output=out")
    assert code == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1
