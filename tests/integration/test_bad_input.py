"""Bad input: one line that names the key or file and the mend, exit code 2, no run folder."""

from __future__ import annotations

import json

import pytest
from small_runs import rollouts_of

from cooper.testing import write_policy


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
    "greedy rollouts": (["sampling.temperature=0"], ["sampling.temperature=0"]),
    "pure bf16": (["trainer.precision=bf16-true"], ["trainer.precision=bf16-true", "bf16-mixed"]),
    "no path": (["policy=hf"], ["policy.path=???", "give policy.path"]),
    "no such folder": (["policy=hf", "policy.path=./none"], ["policy.path=./none", "no such"]),
    "nothing to resume": (["ckpt_path=last"], ["ckpt_path=last", "no checkpoint"]),
    "not an override": (["a b"], ["cannot be read"]),
    "too few problems": (["data.train.size=3"], ["data.train", "3 problems"]),
    "empty component": (["data.val.arithmetic.size=0"], ["data.val.arithmetic", "empty"]),
}


@pytest.mark.parametrize("case", CASES)
def test_settings(cli, tmp_path, case):
    overrides, expected = CASES[case]
    check(cli(*overrides, small=False), expected, tmp_path)


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
    check(cli(*overrides, small=False), ["reward_model.path", "no trained reward head"], tmp_path)


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


def check(result, expected, tmp_path):
    assert result.code == 2
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("cooper-train: error: ")
    for text in expected:
        assert text in lines[0]
    assert not (tmp_path / "runs").exists()
