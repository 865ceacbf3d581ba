"""The experiments on real models and data, with only paths and sizes made small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file
from small_runs import metrics_of

from cooper.config.schema import register
from cooper.models import RewardModel, load_reward_model, load_tokenizer
from cooper.models.adapters import LoraAdapter
from cooper.testing import write_policy, write_reward_model

DATA = Path(__file__).resolve().parents[1] / "data"
FAMILY = {
    "deepmath_qwen": "qwen2",
    "deepmath_llama": "llama",
    "gsm8k_qwen_lora": "qwen2",
    "gsm8k_qwen_shared": "qwen2",
}
TRAIN = {name: name.partition("_")[0] for name in FAMILY}
SETS = {
    "deepmath_qwen": ("math500", "gsm8k", "svamp", "olympiadbench_en", "math_odyssey"),
    "deepmath_llama": ("math500", "gsm8k", "svamp", "olympiadbench_en", "math_odyssey"),
    "gsm8k_qwen_lora": ("gsm8k_256", "gsm8k", "svamp"),
    "gsm8k_qwen_shared": ("gsm8k_256", "gsm8k", "svamp"),
}
SIZES = (
    "group_size=3",
    "data.problems_per_step=2",
    "sampling.max_new_tokens=8",
    "trainer.max_steps=2",
    "evaluation.samples=2",
    "evaluation.every=2",
    "trainer.accelerator=cpu",
    "quiet=true",
    "logger=none",
    "paths.run_dir=r",
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """What an experiment loads from the hub, in the hub's form."""
    folder = tmp_path_factory.mktemp("hub")
    texts = []
    for name, subset in (("deepmath", "default"), ("gsm8k", "main")):
        rows = [json.loads(line) for line in (DATA / "training" / f"{name}.jsonl").open()]
        texts += [text for row in rows for text in row.values()]
        (folder / name / subset).mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(rows), folder / name / subset / "train-00000-of-00001.parquet"
        )
        configs = [{"config_name": subset, "data_files": f"{subset}/train-*"}]
        front = yaml.safe_dump({"configs": configs})
        (folder / name / "README.md").write_text(f"---\n{front}---\n")
    for family in ("qwen2", "llama"):
        write_policy(folder / family, texts, family=family)
    write_reward_model(folder / "reward_model", texts)
    base = str(folder / "qwen2")
    additions = RewardModel(load_reward_model(base, new_head_seed=0), load_tokenizer(base))
    additions.adapt(LoraAdapter(rank=4), seed=0)
    additions.save(folder / "reward_additions")
    return folder


def paths(disk, name, reward_model=True):
    reward = "reward_additions" if name.endswith("shared") else "reward_model"
    known = {"gsm8k_256": "gsm8k"}
    kinds = {"math500": "val", "gsm8k_256": "val"}
    sets = [
        f"data.{kinds.get(s, 'test')}.{s}.path={DATA}/benchmarks/{known.get(s, s)}.jsonl"
        for s in SETS[name]
    ]
    return [
        f"experiment={name}",
        f"policy.path={disk}/{FAMILY[name]}",
        *([f"reward_model.path={disk}/{reward}"] if reward_model else []),
        f"data.train.path={disk}/{TRAIN[name]}",
        *sets,
    ]


@pytest.mark.parametrize("name", FAMILY)
def test_two_steps_end_to_end(cli, disk, tmp_path, name):
    result = cli(*paths(disk, name), *SIZES, small=False)
    assert result.code == 0, result.err
    rows = metrics_of(tmp_path / "r")
    assert [row["step"] for row in rows] == [0, 1, 2]
    for key in SETS[name]:
        for row in (rows[0], rows[-1]):
            assert row[f"val/{key}/avg_at_2"] is not None
    assert rows[-1]["policy/grad_norm"] > 0
    assert rows[-1]["policy/kl"] is not None
    given = load_file(disk / FAMILY[name] / "model.safetensors")
    trained = load_file(tmp_path / "r" / "policy" / "model.safetensors")
    assert any(not torch.equal(given[key], trained[key]) for key in given)
    assert (tmp_path / "r" / "reward_model" / "model.safetensors").is_file()
    checkpoint = tmp_path / "r" / "checkpoints" / "000002" / "policy"
    assert (checkpoint / "adapter_model.safetensors").is_file() == name.startswith("gsm8k")


@pytest.mark.parametrize("name", FAMILY)
def test_without_a_reward_model_the_commands_to_run_first_are_named(cli, disk, tmp_path, name):
    result = cli(*paths(disk, name, reward_model=False), *SIZES, small=False)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    for text in (
        "reward_model.path=???",
        "cooper-annotate",
        "cooper-train-reward experiment=verifyrm_qwen",
        "reward=rule",
    ):
        assert text in result.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", ["deepmath_qwen", "gsm8k_qwen_lora", "gsm8k_qwen_shared"])
def test_the_rule_needs_no_reward_model(cli, disk, tmp_path, name):
    result = cli(*paths(disk, name, reward_model=False), *SIZES, "reward=rule", small=False)
    assert result.code == 0, result.err
    assert not (tmp_path / "r" / "reward_model").exists()


def composed(name):
    register()
    GlobalHydra.instance().clear()
    with initialize_config_module("cooper.conf", version_base="1.3"):
        return compose("train", [f"experiment={name}"])


def test_the_papers_settings():
    """METHOD: questions and completions a step, lengths, rates, KL, evaluation."""
    for name, model in (
        ("deepmath_qwen", "Qwen/Qwen2.5-1.5B-Instruct"),
        ("deepmath_llama", "meta-llama/Llama-3.2-1B-Instruct"),
    ):
        cfg = composed(name)
        assert cfg.policy.path == model
        assert cfg.data.train.path == "zwhe99/DeepMath-103K"
        assert (cfg.data.problems_per_step, cfg.group_size) == (512, 16)
        assert (cfg.prompt.max_tokens, cfg.sampling.max_new_tokens) == (1024, 3072)
        assert (cfg.policy_optimizer.lr, cfg.policy_optimizer.warmup_steps) == (1e-6, 20)
        rm = cfg.reward_model_optimizer
        assert (rm.lr, rm.warmup_steps, rm.warmup_ratio) == (1e-5, 0, 0.01)
        assert (cfg.algorithm.kl_coef, cfg.algorithm.kl_estimator) == (0.001, "k3")
        assert cfg.algorithm.kl_in == "loss"
        assert cfg.negatives._target_.endswith("AssistantNegatives")
        assert cfg.negatives.path is None  # the policy's own start
        assert cfg.pairs.tries == 3
        how = cfg.evaluation
        assert (how.temperature, how.top_p, how.samples) == (0.7, 0.95, 8)
        assert {*cfg.data.val, *cfg.data.test} == set(SETS[name])
        assert cfg.trainer.max_steps == 180


def test_a_date_in_the_template_stays_the_same(disk, tmp_path):
    """Llama 3.2's own template writes today's date, unless it is given one."""
    from transformers import AutoTokenizer

    from cooper.data import PromptBuilder
    from cooper.types import Problem

    shutil.copytree(disk / "llama", tmp_path / "llama")
    template = (tmp_path / "llama" / "chat_template.jinja").read_text()
    (tmp_path / "llama" / "chat_template.jinja").write_text(
        '{% if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}'
        "{% endif %}Today Date: {{ date_string }}\n" + template
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llama")
    keywords = composed("deepmath_llama").prompt.template
    text = PromptBuilder(tokenizer, template=keywords).text(Problem("p", "1 + 1?", "2"))
    assert text.startswith("Today Date: 26 Jul 2024\n")
