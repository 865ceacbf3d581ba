"""Bad input: one line that names the key or file and the mend, exit code 2, no run folder."""

from __future__ import annotations

import json
import shutil

import pytest
from small_runs import rollouts_of
from transformers import AutoTokenizer

from cooper.stages import StageCache
from cooper.testing import write_policy, write_reward_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input")
    good = json.dumps({"question": "1+1?", "answer": "2"}) + "\n"
    (folder / "good.jsonl").write_text(good * 40)
    (folder / "broken.jsonl").write_text(good + '{"question": "x", \n')
    (folder / "empty.jsonl").write_text("")
    (folder / "column.jsonl").write_text(json.dumps({"q": "1", "answer": "2"}) + "\n")
    (folder / "row.jsonl").write_text(good + json.dumps({"question": "only"}) + "\n")
    write_policy(folder / "policy", ["1+1? 2"])
    return folder


def jsonl(folder, name):
    return (
        "data=jsonl", f"data.train={folder}/{name}", f"data.val={folder}/good.jsonl",
        "policy=hf", f"policy.path={folder}/policy", "reward=rule",
    )  # fmt: skip


CASES = {
    "unknown key": (["no_such_key=1"], ["no_such_key", "no such key"]),
    "misspelt key": (["trainer.max_step=3"], ["did you mean trainer.max_steps"]),
    "wrong type": (["trainer.max_steps=abc"], ["trainer.max_steps", "abc"]),
    "unknown option": (["reward=nothing"], ["reward=nothing", "cooper, hybrid, rule, static"]),
    "unknown keyword": (["+verifier.tol=1"], ["verifier.tol=1", "takes no keyword"]),
    "value of a component": (["algorithm.clip_low=abc"], ["algorithm.clip_low=abc", "a number"]),
    "choice of a component": (["algorithm.kl_estimator=k9"], ["kl_estimator=k9", "k1, k2, k3"]),
    "range of a component": (["algorithm.epochs=0"], ["algorithm.epochs=0", "at least 1"]),
    "target that does not import": (
        ["verifier._target_=nowhere.Thing"],
        ["verifier._target_=nowhere.Thing", "cannot be imported"],
    ),
    "group of one": (["group_size=1"], ["group_size=1", "2 or more"]),
    "demonstrations of another task": (
        ["data=jsonl", "data.train=t.jsonl", "data.val=v.jsonl", "reward=rule"],
        ["warm start demonstrates", "data.train=t.jsonl", "policy=hf"],
    ),
    "no problems in a step": (["data.problems_per_step=0"], ["data.problems_per_step=0"]),
    "greedy rollouts": (["sampling.temperature=0"], ["sampling.temperature=0"]),
    "pure bf16": (["trainer.precision=bf16-true"], ["trainer.precision=bf16-true", "bf16-mixed"]),
    "no path": (["policy=hf"], ["policy.path=???", "give policy.path"]),
    "no such folder": (["policy=hf", "policy.path=./none"], ["policy.path=./none", "no such"]),
    "nothing to resume": (["ckpt_path=last"], ["ckpt_path=last", "no checkpoint"]),
    "not an override": (["a b"], ["cannot be read"]),
    "too few problems": (["data.train.size=3"], ["data.train", "3 problems"]),
    "unknown accelerator": (["trainer.accelerator=foo"], ["trainer.accelerator=foo", "give cpu"]),
    "accelerator that is not here": (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu"]),
    "betas": (
        ["policy_optimizer.betas=[1.5,0.9]"],
        ["policy_optimizer.betas=[1.5, 0.9]", "[0, 1)"],
    ),
    "betas of a stage": (["warm_start.optimizer.betas=[-1,0]"], ["warm_start.optimizer.betas"]),
    "eps": (["policy_optimizer.eps=0"], ["policy_optimizer.eps=0", "above 0"]),
    "warm-up": (
        ["reward_model_optimizer.warmup_ratio=1.5"],
        ["reward_model_optimizer.warmup_ratio=1.5", "at most 1"],
    ),
    "range of a part's part": (
        ["annotation.judge.error_rate=2"],
        ["annotation.judge.error_rate=2", "[0, 1]"],
    ),
    "field of the assistant's prompt": (
        ["negatives=assistant", "negatives.prompt='{question} {answer}'"],
        ["negatives.prompt='{question} {answer}'", "no field {answer}", "{reference}"],
    ),
    "greedy assistant": (
        ["negatives=assistant", "negatives.temperature=0"],
        ["negatives.temperature=0", "above 0"],
    ),
    "assistant that is not there": (
        ["negatives=assistant", "negatives.path=./none"],
        ["negatives.path=./none", "no such folder"],
    ),
    "share of a truncation": (
        ["negatives=truncate", "negatives.min_share=1"],
        ["negatives.min_share=1", "[0, 1)"],
    ),
    "share of a part of the mixture": (
        [
            "negatives=mixed",
            "+negatives.weights.cut=1",
            "+negatives.generators.cut._target_=cooper.negatives.TruncateNegatives",
            "+negatives.generators.cut.min_share=2",
        ],
        ["negatives.generators.cut.min_share=2", "[0, 1)"],
    ),
    "control token of the warm start": (
        ["negatives=assistant", "warm_start.wrong_token=' '"],
        ["warm_start.wrong_token=' '", "without spaces"],
    ),
    "nothing demonstrates wrong solutions": (
        ["negatives=assistant", "warm_start.demonstrate_wrong=null"],
        ["warm_start.wrong_share=", "warm_start.demonstrate_wrong"],
    ),
    "window of the monitor": (["monitor.window=-1"], ["monitor.window=-1", "at least 3"]),
    "rule that the monitor does not have": (["monitor.alarms.gapp=1"], ["monitor.alarms.gapp"]),
    "threshold that is no number": (["monitor.alarms.gap=x"], ["monitor.alarms.gap", "x"]),
    "negative threshold": (
        ["monitor.alarms.gap=-1"],
        ["monitor.alarms.gap=-1", "at least 0"],
    ),
    "action of the monitor": (
        ["monitor.action=shout"],
        ["monitor.action=shout", "none, stop, update_more"],
    ),
    "more updates of a frozen reward model": (
        ["monitor.action=update_more", "reward=static"],
        ["monitor.action=update_more", "trains no reward model", "give none or stop"],
    ),
    "more updates without a reward model": (
        ["monitor.action=update_more", "reward=rule"],
        ["monitor.action=update_more", "RuleReward"],
    ),
    "more updates than a schedule has": (
        ["monitor.action=update_more", "reward_model_optimizer.schedule=cosine"],
        ["reward_model_optimizer.schedule=cosine", "give constant"],
    ),
    "steps of a stage": (["warm_start.steps=0"], ["warm_start.steps=0", "at least 1"]),
    "share": (["warm_start.template_share=1.5"], ["template_share=1.5", "at most 1"]),
    "odd heads": (["warm_start.model.hidden_size=12"], ["num_heads=4", "half of hidden_size=12"]),
    "empty mini-batches": (
        ["algorithm.minibatches=33", "group_size=4", "data.problems_per_step=8"],
        ["algorithm.minibatches=33", "group_size=4"],
    ),
    "not a number": (["sampling.temperature=nan"], ["sampling.temperature=nan", "finite"]),
    "infinite": (["policy_optimizer.lr=inf"], ["policy_optimizer.lr=inf", "finite"]),
    "more than 64 bits": (["data.train.size=1" + "0" * 30], ["data.train.size=1", "2^63"]),
    "threads": (["trainer.threads=100000"], ["trainer.threads=100000", "1024"]),
    "negative temperature": (["evaluation.temperature=-1"], ["evaluation.temperature=-1.0"]),
    "negative prompt": (["prompt.max_tokens=-1"], ["prompt.max_tokens=-1", "no limit"]),
    "empty path": (["ckpt_path=''"], ["ckpt_path=''", "empty"]),
    "name of two folders": (["name=a/b"], ["name=a/b", "without /"]),
    "no component": (["annotation.judge=null"], ["annotation.judge=null", "gives Verifier"]),
    "text for a component": (
        ["warm_start.optimizer=adam"],
        ["optimizer=adam", "OptimizerSettings"],
    ),
    "component of another kind": (
        ["annotation.judge={_target_: cooper.samplers.HFSampler}"],
        ["annotation.judge", "gives Verifier"],
    ),
    "called at once": (
        ["warm_start.corpus._partial_=false"],
        ["warm_start.corpus=", "_partial_=true"],
    ),
    "flag of Hydra": (["warm_start.corpus._partial_=3"], ["_partial_=3", "true or false"]),
    "root of another kind": (
        ["negatives._target_=cooper.samplers.HFSampler", "~negatives.choose"],
        ["negatives=cooper.samplers.HFSampler", "no NegativeGenerator"],
    ),
    "nothing for a root": (
        ["++policy_optimizer=null"],
        ["policy_optimizer=null", "OptimizerSettings"],
    ),
    "problems that are none": (
        ["+data.val.words={_target_: builtins.str, object: abc}"],
        ["data.val.words", "Problems"],
    ),
    "logger that is not installed": (["logger=wandb"], ["logger", "wandb"]),
    "value of the logger": (["logger.version=1.5"], ["logger.version=1.5", "null"]),
    "callback": (
        ["+callbacks.a._target_=builtins.dict"],
        ["callbacks.a=builtins.dict", "Callback"],
    ),
    "keyword of TensorBoard's": (["+logger.foo=1"], ["logger", "'foo'"]),
    "folder of the logger": (["logger.save_dir=here/x"], ["logger.save_dir=here/x"]),
    "callback that Lightning refuses": (
        ["+callbacks.a._target_=lightning.pytorch.callbacks.ModelCheckpoint"],
        ["callbacks=['a']", "enable_checkpointing"],
    ),
    "callback that does not build": (
        ["+callbacks.a={_target_: lightning.pytorch.callbacks.Timer, duration: abc}"],
        ["callbacks.a", "duration"],
    ),
    "root in a file's place": (["paths.root=here/runs"], ["paths.run_dir=here/runs", "paths.root"]),
    "folder in a file's place": (["paths.run_dir=here"], ["paths.run_dir=here", "Not a directory"]),
    "folder where none can be": (["paths.run_dir=/proc/x"], ["paths.run_dir=/proc/x", "/proc"]),
    "cache in a file's place": (["paths.cache_dir=here/c"], ["paths.cache_dir=here/c"]),
    "form of the export": (["export.form=zip"], ["export.form=zip", "merged", "adapter"]),
    "export of an adapter that is not there": (
        ["export.form=adapter"],
        ["export.form=adapter", "no model is trained as an adapter"],
    ),
    "empty component": (["data.val.arithmetic.size=0"], ["data.val.arithmetic", "empty"]),
}


@pytest.mark.parametrize("case", CASES)
def test_settings(cli, tmp_path, monkeypatch, case):
    overrides, expected = CASES[case]
    (tmp_path / "here").write_text("a file where a folder is wanted")
    monkeypatch.setattr(StageCache, "folder", no_stage_may_run(StageCache.folder))
    check(cli(*overrides, small=False), expected, tmp_path)


def no_stage_may_run(folder):
    """A stage takes minutes: what is refused has to be refused before."""

    def at_once(self, stage, settings, build):
        def run(_):
            pytest.fail(f"stage {stage} ran")

        return folder(self, stage, settings, run)

    return at_once


FILES = {
    "missing.jsonl": ["missing.jsonl", "no such file"],
    "broken.jsonl": ["broken.jsonl, line 2", "broken JSON"],
    "empty.jsonl": ["empty.jsonl", "no rows"],
    "column.jsonl": ["column.jsonl, line 1", "question", "question_column"],
    "row.jsonl": ["row.jsonl, line 2", "no column 'answer'"],
}


@pytest.mark.parametrize("name", FILES)
def test_files(cli, folder, tmp_path, name):
    check(cli(*jsonl(folder, name), small=False), FILES[name], tmp_path)


def test_reward_model_without_a_head(cli, folder, tmp_path):
    overrides = ("reward_model=hf", f"reward_model.path={folder}/policy")
    expected = [
        "reward_model.path", "no trained reward head", "cooper-annotate",
        "cooper-train-reward experiment=verifyrm_qwen",
    ]  # fmt: skip
    check(cli(*overrides, small=False), expected, tmp_path)


def test_models_that_cannot_be_a_policy(cli, folder, tmp_path):
    write_reward_model(folder / "reward_model", ["1+1? 2"])
    rest = jsonl(folder, "good.jsonl")
    result = cli(*rest, f"policy.path={folder}/reward_model", small=False)
    check(result, ["policy.path=", "holds a Qwen2ForSequenceClassification"], tmp_path)

    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    tokenizer.add_tokens(["one", "more"])
    shutil.copytree(folder / "policy", folder / "grown")
    tokenizer.save_pretrained(folder / "grown")
    result = cli(*rest, f"policy.path={folder}/grown", small=False)
    check(result, ["policy.path=", "embedding", "resize_token_embeddings"], tmp_path)

    result = cli(*rest, "policy.path=nobody/nothing", small=False)
    check(result, ["policy.path=nobody/nothing", "the network", "local folder"], tmp_path)


def test_unknown_key_in_a_yaml_file(cli, tmp_path, monkeypatch):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "typo.yaml").write_text(
        "# @package _global_\ntrainer:\n  max_stepps: 3\n"
    )
    result = cli(f"--config-dir={tmp_path}/mine", "experiment=typo", small=False)
    check(result, ["max_stepps"], tmp_path)


def test_component_of_the_users_own_project(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from cooper.types import Status, Verdict\n"
        "from cooper.verifiers.base import Verifier\n"
        "class Long(Verifier):\n"
        "    def __init__(self, least: int): self.least = least\n"
        "    def verify(self, completions, references, questions=None):\n"
        "        return [Verdict(Status.CORRECT if len(c) >= self.least else Status.INCORRECT)\n"
        "                for c in completions]\n"
    )
    (tmp_path / "mine" / "verifier").mkdir(parents=True)
    (tmp_path / "mine" / "verifier" / "long.yaml").write_text("_target_: mine.Long\nleast: 10\n")
    # mine.py is found because it lies in the working directory.
    one_step = ("reward=rule", "trainer.max_steps=1", "paths.run_dir=r")
    result = cli("--config-dir=mine", "verifier=long", *one_step)
    assert result.code == 0, result.err
    rows = rollouts_of(tmp_path / "r", 1)
    long = [len(row["completion"]) >= 10 for row in rows]
    assert [row["verdict"] == "correct" for row in rows] == long
    assert len(set(long)) == 2


CLOSING = """
from cooper.verifiers import NumericVerifier
class Noted(NumericVerifier):
    closed = 0
    def close(self):
        Noted.closed += 1
        super().close()
"""


def test_what_was_built_is_closed_when_a_later_part_fails(cli, tmp_path, monkeypatch):
    (tmp_path / "noted.py").write_text(CLOSING)
    monkeypatch.syspath_prepend(str(tmp_path))
    overrides = ("verifier._target_=noted.Noted", "reward=rule", "policy=hf", "policy.path=./none")
    check(cli(*overrides, small=False), ["policy.path=./none"], tmp_path)
    import noted

    assert noted.Noted.closed == 1


def check(result, expected, tmp_path):
    assert result.code == 2
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("cooper-train: error: ")
    for text in expected:
        assert text in lines[0]
    assert not (tmp_path / "runs").exists()
