"""``cooper-plan`` from a folder without weights to table and JSON, and what bad input is told."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from transformers import Qwen2Config

from cooper.cli.plan import main
from cooper.config.schema import register


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's config alone."""
    config = Qwen2Config(
        vocab_size=100, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=16, tie_word_embeddings=True,
    )  # fmt: skip
    config.save_pretrained(tmp_path / "model")
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["config.json"]
    return tmp_path / "model"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Any:
    """``plan("experiment=none")``: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cooper-plan", *arguments])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    yield call
    register()  # others compose cooper-train's own root


def given(folder: Path, *more: str) -> list[str]:
    return [
        "experiment=none", "data=jsonl", "policy=hf", f"policy.path={folder}", "reward_model=hf",
        f"reward_model.path={folder}", "prompt.max_tokens=16", "sampling.max_new_tokens=16",
        "evaluation.max_new_tokens=16", "data.problems_per_step=4", "group_size=4",
        "plan.json=plan.json", *more,
    ]  # fmt: skip


def test_a_config_alone_is_planned(plan: Any, folder: Path, tmp_path: Path) -> None:
    code, out, err = plan(*given(folder, "trainer=gpu", "plan.gpu=l4"))
    assert code == 0, err
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["parameters"]["policy"]["trained"] == 800 + 2 * 608 + 8
    assert list(found["parameters"]) == ["policy", "reference", "reward_model"]
    memory = found["memory"]
    peak = memory["resident_bytes"] + max(phase["bytes"] for phase in memory["phases"])
    assert memory["peak"] == peak
    assert found["gpus"][0]["name"] == "L4"
    assert found["gpus"][0]["fits"]
    assert found["remedies"] == []
    assert found["tokens"]["rollouts"] == 16
    assert "mean completion 8 tokens" in " ".join(out.split())
    assert list(folder.iterdir()) == [folder / "config.json"]


def test_overrides_are_those_of_cooper_train(plan: Any, folder: Path, tmp_path: Path) -> None:
    trained, weights = {}, {}
    for name, more in {
        "full": (),
        "lora": ("adapter@policy_adapter=lora", "adapter@reward_model_adapter=lora"),
        "shared": ("model=shared",),
        "rule": ("reward=rule",),
        "assistant": ("negatives=assistant", "algorithm.kl_coef=0"),
        "first stage": ("reward_model=first_stage",),
    }.items():
        arguments = [a for a in given(folder, "trainer=gpu", *more) if name != "first stage"
                     or not a.startswith("reward_model.path")]  # fmt: skip
        code, _, err = plan(*arguments)
        assert code == 0, err
        found = json.loads((tmp_path / "plan.json").read_text())
        weights[name] = sum(
            part["bytes"] for part in found["memory"]["resident"] if part["what"] == "weights"
        )
        trained[name] = {role: count["trained"] for role, count in found["parameters"].items()}
    assert set(trained["rule"]) == {"policy", "reference"}
    assert set(trained["lora"]) == {"policy", "reward_model"}
    assert trained["shared"] == trained["lora"]
    assert weights["shared"] < weights["lora"]  # one base
    assert trained["assistant"] == trained["full"]  # the assistant is the policy's start
    assert trained["first stage"] == trained["full"]


def test_what_does_not_fit_is_planned_again(plan: Any, folder: Path, tmp_path: Path) -> None:
    arguments = given(
        folder, "trainer=gpu", "plan.memory=1.3124", "group_size=16", "sampler.cache_tokens=1",
        "reward=rule",
    )  # fmt: skip
    code, out, _ = plan(*arguments)
    assert code == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert not found["gpus"][0]["fits"]
    told = {remedy["change"]: remedy for remedy in found["remedies"]}
    change = "algorithm.micro_batch_tokens=32"
    assert change in told
    assert "Planned again with a change" in out
    plan(*arguments, change)
    again = json.loads((tmp_path / "plan.json").read_text())
    assert again["memory"]["peak"] == told[change]["peak"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["policy.path=???"], "policy.path=???: a value is needed; give policy.path=FOLDER"),
        (["policy.path=/nowhere/at/all"], "policy.path=/nowhere/at/all: no such folder"),
        (["plan.gpu=H1000"], "plan.gpu=H1000: no GPU of this name; did you mean H100? known are"),
        (["plan.strategy=zero9"], "plan.strategy=zero9: no such strategy; known are single"),
        (["plan.strategy=zero3"], "plan.strategy=zero3: is for several GPUs; give plan.gpus"),
        (["plan.gpus=0"], "plan.gpus=0: must be above 0"),
        (["plan.gp=1"], "plan.gp: no such key; did you mean plan.gpu?"),
        (["policy=tiny"], "policy=tiny: is made by the run itself"),
        (["algorithm.micro_batch_tokens=0"], "algorithm.micro_batch_tokens=0: "),
    ],
)
def test_bad_input_gets_one_line(plan: Any, folder: Path, arguments: list[str], said: str) -> None:
    rest = given(folder)
    if arguments == ["policy=tiny"]:
        rest = [argument for argument in rest if not argument.startswith("policy")]
    code, _, err = plan(*rest, *arguments)
    assert code == 2
    assert err.startswith(f"cooper-plan: error: {said}"), err
    assert err.count("\n") == 1


def test_a_config_that_cannot_be_read_gets_one_line(plan: Any, folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no such model"}')
    code, _, err = plan(*given(folder))
    assert code == 2
    assert f"policy.path={folder}: cannot load the config: " in err
    assert err.count("\n") == 1


def test_the_plan_adds_one_key_to_the_training(plan: Any, folder: Path) -> None:
    code, out, err = plan("--cfg", "job", "experiment=none")
    assert code == 0, err
    assert "\nplan:\n  gpu: null\n" in out
    assert "micro_batch_tokens: 16384" in out


@pytest.mark.slow  # a real run of 128 million parameters each: two CPU minutes, 6 GB
@pytest.mark.parametrize("case", ["full", "lora"])
def test_memory_is_that_of_a_run(case: str, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "plan.py"
    spec = importlib.util.spec_from_file_location("plan_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    prompt = benchmark.write_models(tmp_path, layers=12)
    found = benchmark.compare(tmp_path, prompt, 48, benchmark.CASES[case])
    assert abs(found["error"]) < 0.1, found
