"""The main command, end to end."""

from __future__ import annotations

import json
import math

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_runs import metrics_of, rollouts_of
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from cooper.testing import write_policy, write_reward_model


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_last_evaluations_include_the_test_sets(cli, tmp_path):
    result = cli(
        "paths.run_dir=r", "trainer.max_steps=5", "evaluation.every=2", "evaluation.test_last=2",
        "data.test={small: {_target_: cooper.data.arithmetic.ArithmeticProblems, "
        "size: 4, seed: 1}}",
    )  # fmt: skip
    assert result.code == 0, result.err
    rows = metrics_of(tmp_path / "r")
    evaluated = {
        name: [row["step"] for row in rows if row.get(f"val/{name}/greedy") is not None]
        for name in ("arithmetic", "small")
    }
    assert evaluated == {"arithmetic": [0, 2, 4, 5], "small": [0, 4, 5]}


def test_run_folder_holds_what_it_should(cli, tmp_path):
    result = cli("paths.run_dir=r", "rollouts.keep=8", "logger=tensorboard")
    assert result.code == 0, result.err
    run = tmp_path / "r"
    assert yaml.safe_load((run / "config.yaml").read_text())["group_size"] == 4
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"]
    rows = metrics_of(run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert "val/arithmetic/avg_at_2" in rows[0]
    for key in (
        "reward/mean", "reward/std", "reward/frac_zero_std_groups", "verifier/accuracy",
        "verifier/undecided", "hacking/gap", "hacking/false_positive_rate", "policy/loss",
        "policy/kl", "policy/entropy", "policy/clip_frac", "policy/grad_norm", "policy/lr",
        "reward_model/accuracy", "reward_model/auroc", "reward_model/ece", "pairs/built",
        "pairs/dropped_no_correct", "completions/mean_length", "completions/truncated_frac",
    ):  # fmt: skip
        assert any(row.get(key) is not None and math.isfinite(row[key]) for row in rows), key
    kept = rollouts_of(run, 2)
    assert len(kept) == 8
    assert {row["problem"] for row in kept} == {kept[0]["problem"], kept[4]["problem"]}
    for row in kept:
        if row["answer"] is not None:
            start, end = row["answer_span"]
            assert row["completion"][start:end] == row["answer"]
    for name in ("training_dynamics.png", "training_dynamics.svg"):
        assert (run / "figures" / name).stat().st_size > 1000
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert list((run / "tensorboard").glob("events*"))
    policy = AutoModelForCausalLM.from_pretrained(run / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run / "policy")
    text = "Ann has 3 packs of 4 and loses 2.\n3*4=12, 12-2=10. \\boxed{10}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert policy.config.vocab_size == len(tokenizer)
    assert AutoModelForSequenceClassification.from_pretrained(run / "reward_model").num_labels == 1
    assert same(weights(run / "policy"), weights(run / "checkpoints" / "000003" / "policy"))


def test_both_models_move_under_cooper_and_only_the_policy_under_static(cli, tmp_path, stage_cache):
    assert cli("paths.run_dir=c").code == 0
    assert cli("paths.run_dir=s", "reward=static").code == 0
    assert cli("paths.run_dir=u", "reward=rule").code == 0

    def is_a_start(run, model, stage):
        starts = [file.parent for file in (stage_cache / stage).glob("*/settings.json")]
        assert starts
        return any(same(weights(tmp_path / run / model), weights(start)) for start in starts)

    assert not any(is_a_start(run, "policy", "warm_start") for run in "csu")
    assert is_a_start("s", "reward_model", "reward_model")
    assert not is_a_start("c", "reward_model", "reward_model")
    assert not (tmp_path / "u" / "reward_model").exists()
    assert sum(row.get("pairs/built", 0) for row in metrics_of(tmp_path / "c")) > 0


def test_same_seed_same_curve_other_seed_another(cli, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cli(f"paths.run_dir={name}", "trainer.max_steps=2", f"seed={seed}", "reward=rule")
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    assert metrics_of(tmp_path / "a") != metrics_of(tmp_path / "c")


# A part of a user's that draws from torch's global generator, as many do.
NOISY_REWARD = """
import torch
from cooper.rewards import ModelReward, Rewards

class Noisy(ModelReward):
    def __call__(self, verdicts, scores, problem_of):
        found = super().__call__(verdicts, scores, problem_of)
        return Rewards(found.values + torch.rand(len(found.values)), found.keep)
"""


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["algorithm.minibatches=2", "reward=hybrid"],
        ["reward._target_=noisy_reward.Noisy"],
        [
            "reward_objective=pairwise_replay",
            "reward_objective.replay_pairs=4",
            "reward_objective.ema_decay=0.9",
            "algorithm.dynamic_sampling=2",
        ],
    ],
    ids=["default", "minibatches", "global-generator", "replay-average-refill"],
)
def test_resumed_run_is_the_uninterrupted_one_to_the_bit(cli, tmp_path, extra):
    (tmp_path / "noisy_reward.py").write_text(NOISY_REWARD)
    lr = ["policy_optimizer.schedule=linear", "checkpoints.every=2", "trainer.max_steps=4", *extra]
    assert cli("paths.run_dir=whole", *lr).code == 0
    assert cli("paths.run_dir=parts", "checkpoints.keep_last=0", *lr).code == 0
    # As after a kill behind step 3: the last checkpoint is step 2's, later lines are there.
    (tmp_path / "parts" / "checkpoints" / "000004").rename(tmp_path / "gone")
    result = cli("paths.run_dir=parts", "ckpt_path=last", *lr)
    assert result.code == 0, result.err
    assert "resuming after step 2" in result.out
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    for model in ("policy", "reward_model"):
        assert same(weights(tmp_path / "parts" / model), weights(tmp_path / "whole" / model))
    for step in (3, 4):
        name = f"{step:06d}.jsonl.gz"
        whole = (tmp_path / "whole" / "rollouts" / name).read_bytes()
        assert (tmp_path / "parts" / "rollouts" / name).read_bytes() == whole


def test_resume_takes_the_new_settings_and_says_so(cli, tmp_path):
    given = ["paths.run_dir=r", "trainer.max_steps=2", "policy_optimizer.warmup_steps=0"]
    assert cli(*given).code == 0
    more = ["trainer.max_steps=4", "policy_optimizer.lr=1e-6", "policy_optimizer.schedule=linear"]
    result = cli(*given, *more, "ckpt_path=last")
    assert result.code == 0, result.err
    assert "changed: policy_optimizer.lr: 0.00015 -> 1e-06" in result.out
    rates = [row["policy/lr"] for row in metrics_of(tmp_path / "r")[1:]]
    # Steps 3 and 4 of four: a half and a quarter of the new rate are left.
    assert rates == pytest.approx([1.5e-4, 1.5e-4, 5e-7, 2.5e-7])
    assert "lr: 0.00015" in (tmp_path / "r" / "config.until_000002.yaml").read_text()
    assert "lr: 1.0e-06" in (tmp_path / "r" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("reward=rule", "the checkpoint trained policy, reward_model, this run trains policy"),
        ("warm_start.model.num_layers=1", "its weights do not fit this run's model"),
    ],
)
def test_resume_with_another_model_or_reward_changes_nothing(cli, tmp_path, other, said):
    given = ["paths.run_dir=r", "trainer.max_steps=1"]
    assert cli(*given).code == 0
    before = {p: p.read_bytes() for p in sorted((tmp_path / "r").rglob("*")) if p.is_file()}
    result = cli(*given, "trainer.max_steps=2", other, "ckpt_path=last", "warm_start.steps=5")
    assert result.code == 2
    assert said in result.err
    changed = {
        path.name
        for path in sorted((tmp_path / "r").rglob("*"))
        if path.is_file() and before.get(path) != path.read_bytes()
    }
    assert changed <= {"summary.json", "training_dynamics.png", "training_dynamics.svg"}


STOPPER = """
import os, signal
import lightning as L

class CtrlC(L.Callback):
    def __init__(self, step):
        self.step = step
    def on_train_batch_end(self, trainer, module, *_):
        if module.rl_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)

class Enough(L.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        trainer.should_stop = True
"""


@pytest.mark.parametrize(
    ("callback", "code", "status", "steps"),
    [
        ("{_target_: stopper.CtrlC, step: 3}", 0, "finished", 3),  # in the last step
        ("{_target_: stopper.CtrlC, step: 2}", 130, "interrupted", 2),
        ("{_target_: stopper.Enough}", 0, "stopped", 1),
    ],
)
def test_ends_before_and_in_the_last_step(
    cli, tmp_path, monkeypatch, callback, code, status, steps
):
    (tmp_path / "stopper.py").write_text(STOPPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = cli("paths.run_dir=r", "reward=rule", f"+callbacks.mine={callback}")
    assert result.code == code, result.err
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == status
    assert (tmp_path / "r" / "checkpoints" / f"{steps:06d}" / "trainer.pt").is_file()
    assert metrics_of(tmp_path / "r")[-1]["step"] == steps


ALTERNATE = """
from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier

class Alternate(Verifier):
    def verify(self, completions, references, questions=None):
        kinds = (Status.CORRECT, Status.INCORRECT)
        return [Verdict(kinds[i % 2]) for i in range(len(completions))]
"""


def test_dynamic_sampling_that_keeps_all_groups_changes_nothing(cli, tmp_path, monkeypatch):
    (tmp_path / "alternate.py").write_text(ALTERNATE)
    (tmp_path / "mine" / "verifier").mkdir(parents=True)
    (tmp_path / "mine" / "verifier" / "alternate.yaml").write_text(
        "_target_: alternate.Alternate\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given = ["--config-dir=mine", "verifier=alternate", "reward=rule", "trainer.max_steps=2"]
    for name, rounds in (("plain", 0), ("dynamic", 4)):
        result = cli(f"paths.run_dir={name}", f"algorithm.dynamic_sampling={rounds}", *given)
        assert result.code == 0, result.err
    got = metrics_of(tmp_path / "dynamic")
    extra = [
        (row.pop("sampling/extra_rounds", 0), row.pop("sampling/dropped_groups", 0)) for row in got
    ]
    assert got == metrics_of(tmp_path / "plain")
    assert extra == [(0, 0)] * 3


@pytest.mark.parametrize(
    ("preset", "parts"),
    [("pairwise_bce", {"margin", "heldout_auroc"}), ("replay", {"heldout_auroc"})],
)
def test_reward_objectives_run(cli, tmp_path, preset, parts):
    floor = ["reward_objective.accuracy_floor=0.999", "reward_objective.max_inner_steps=3"]
    result = cli("paths.run_dir=r", f"reward_objective={preset}", *floor)
    assert result.code == 0, result.err
    keys = {key for row in metrics_of(tmp_path / "r") for key in row}
    assert {f"reward_model/{part}" for part in ("margin", "heldout_auroc")} & keys == {
        f"reward_model/{part}" for part in parts
    }


def test_last_finds_the_newest_run_of_the_experiment(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["paths.root='~/runs'", "reward=rule"]
    assert cli("trainer.max_steps=1", *given).code == 0
    assert cli("trainer.max_steps=1", *given).code == 0
    newest = sorted((tmp_path / "runs" / "embedded_task").iterdir())[-1]
    result = cli("trainer.max_steps=2", *given, "ckpt_path=last")
    assert result.code == 0, result.err
    assert [row["step"] for row in metrics_of(newest)] == [0, 1, 2]
    again = cli("trainer.max_steps=2", "reward=rule", f"ckpt_path={newest}")
    assert again.code == 2
    assert "raise trainer.max_steps" in again.err


def test_stages_come_from_the_cache_and_say_so(cli, tmp_path):
    first = cli("trainer.max_steps=1", "paths.cache_dir=own")
    second = cli("trainer.max_steps=1", "paths.cache_dir=own")
    other = cli("trainer.max_steps=1", "paths.cache_dir=own", "reward_training.steps=5")
    assert first.out.count(": built") == 3
    assert second.out.count("taken from the cache") == 3
    assert other.out.count("taken from the cache") == 2
    assert other.out.count(": built") == 1


def test_step_in_which_nothing_is_correct_breaks_nothing(cli, tmp_path):
    result = cli("paths.run_dir=r", "sampling.max_new_tokens=2", "trainer.max_steps=2")
    assert result.code == 0, result.err
    last = metrics_of(tmp_path / "r")[-1]
    assert last["pairs/built"] == 0
    assert "reward_model/loss" not in last
    assert last["pairs/dropped_no_correct"] == 6
    assert last["completions/truncated_frac"] > 0


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Tiny policy and reward model in HF form over GSM8K-like rows."""
    folder = tmp_path_factory.mktemp("hf")
    rows = [
        {
            "question": f"Natalia sold {n} clips in April and half as many in May. "
            "How many clips did she sell altogether?",
            "answer": f"{n + n // 2}",
        }
        for n in range(10, 60, 2)
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [row["question"] for row in rows]
    write_policy(folder / "policy", texts)
    write_reward_model(folder / "reward_model", texts)
    return folder


def test_models_and_data_from_disk(cli, checkpoints, tmp_path):
    result = cli(
        "data=jsonl",
        f"data.train={checkpoints}/rows.jsonl",
        f"data.val={checkpoints}/rows.jsonl",
        "policy=hf",
        f"policy.path={checkpoints}/policy",
        "reward_model=hf",
        f"reward_model.path={checkpoints}/reward_model",
        "paths.run_dir=r",
        "trainer.max_steps=2",
        "data.problems_per_step=4",
        "group_size=2",
        "sampling.max_new_tokens=8",
        "evaluation.samples=2",
        "quiet=true",
        "logger=none",
        small=False,
    )
    assert result.code == 0, result.err
    rows = metrics_of(tmp_path / "r")
    assert rows[-1]["verifier/accuracy"] == 0
    assert rows[-1]["verifier/undecided"] == 0
    assert "val/rows/avg_at_2" in rows[0]
    assert rollouts_of(tmp_path / "r", 1)[0]["question"].startswith("Natalia sold")
    # Without a right answer there is no pair, so the reward model ends as it was given; the
    # policy has taken two steps at the paper's learning rate.
    given, trained = weights(checkpoints / "policy"), weights(tmp_path / "r" / "policy")
    assert same(weights(tmp_path / "r" / "reward_model"), weights(checkpoints / "reward_model"))
    assert not same(trained, given)
    assert all(torch.allclose(trained[k], given[k], rtol=0, atol=1e-4) for k in given)


def test_bf16_mixed_runs_through_every_stage_in_slots_and_packs(cli, tmp_path) -> None:
    result = cli("trainer.precision=bf16-mixed", "trainer.max_steps=2", "paths.run_dir=r")
    assert result.code == 0, result.err
    assert "instead" not in result.err  # of the native sampler
    assert "with padding" not in result.err
    rows = metrics_of(tmp_path / "r")
    assert rows[-1]["policy/skipped_steps"] == rows[-1]["reward_model/skipped_steps"] == 0
    assert all(weight.dtype == torch.float32 for weight in weights(tmp_path / "r/policy").values())
