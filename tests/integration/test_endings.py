"""However a run ends: one clear line, an honest exit code, a whole checkpoint, no process left."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
from small_runs import metrics_of, rollouts_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cooper.fitting import SupervisedModule
from cooper.run_folder import RunFolder
from cooper.testing import write_policy

TROUBLE = """
import os, resource, signal
from pathlib import Path
import lightning as L
import cooper.verifiers.math as maths

class Pooled(maths.MathVerifier):
    '''Every comparison goes through the worker processes.'''
    def submit(self, *args):
        quickly, maths.compare_quickly = maths.compare_quickly, lambda *_: None
        try:
            return super().submit(*args)
        finally:
            maths.compare_quickly = quickly

class Trouble(L.Callback):
    def __init__(self, what, step, hook="end", value=0):
        self.what, self.step, self.hook, self.value = what, step, hook, value
    def on_train_batch_start(self, trainer, module, *_):
        if self.hook == "start" and module.rl_step + 1 == self.step:
            getattr(self, self.what)(module)
    def on_train_batch_end(self, trainer, module, *_):
        if self.hook == "end" and module.rl_step == self.step:
            getattr(self, self.what)(module)
    def on_train_end(self, trainer, module):
        if self.hook == "last":
            getattr(self, self.what)(module)
    def full_disk(self, module):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.value, hard))
    def file_for_folder(self, module):
        Path("r/rollouts").rename("moved")
        Path("r/rollouts").touch()
    def signal(self, module):
        os.kill(os.getpid(), self.value)
        if self.value == signal.SIGTERM:  # a sweep passes on what its group was sent
            os.kill(os.getpid(), self.value)
    def error(self, module):
        raise RuntimeError("a user's own")
    def kill_workers(self, module):
        living = list(module.verifier._pool._living)
        assert living
        for worker in living:
            os.kill(worker.process.pid, signal.SIGKILL)
"""

RUN = ("paths.run_dir=r", "checkpoints.every=1", "reward=hybrid")


def trouble(what, step, hook="end", value=0):
    return (
        f"+callbacks.trouble={{_target_: trouble.Trouble, what: {what}, step: {step}, "
        f"hook: {hook}, value: {value}}}"
    )


@pytest.fixture(autouse=True)
def parts(tmp_path, monkeypatch):
    (tmp_path / "trouble.py").write_text(TROUBLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trouble", raising=False)


@pytest.fixture
def unlimited():
    """Take the limit on the size of files back, which stands for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def the_line(result) -> str:
    """The one line that says what went wrong."""
    (line,) = [line for line in result.err.splitlines() if line.startswith("cooper-train: error")]
    assert "Traceback" not in result.err
    return line


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of the run that nothing happens to, filled by the first test that asks."""
    return tmp_path_factory.mktemp("whole") / "r"


def assert_as_whole(cli, whole):
    """The run in r is the one that nothing happened to."""
    if not whole.exists():
        assert cli(*RUN, f"paths.run_dir={whole}").code == 0
    assert metrics_of(Path("r")) == metrics_of(whole)
    for model in ("policy", "reward_model"):
        file = f"{model}/model.safetensors"
        assert (Path("r") / file).read_bytes() == (whole / file).read_bytes()
    assert json.loads(Path("r/summary.json").read_text())["status"] == "finished"
    assert not list(Path("r").glob(".*"))


@pytest.mark.parametrize(
    ("where", "limit", "said", "intact"),
    [
        # The model is larger than the limit, its other files and the metrics are not.
        ((2, "end"), 40_000, "r/checkpoints/000002: cannot be written (File too large)", 1),
        # The optimizers' state fails behind the models: a limit above them, below it.
        ((2, "end"), 400_000, "r/checkpoints/000002: cannot be written (", 1),
        ((3, "start"), 100, "r/metrics.jsonl: File too large", 2),
        ((0, "last"), 40_000, "r/policy: cannot be written (File too large)", 3),
    ],
    ids=["model", "optimizers", "metrics", "export"],
)
def test_full_disk(cli, whole, unlimited, where, limit, said, intact):
    result = cli(*RUN, trouble("full_disk", *where, value=limit))
    unlimited()
    assert result.code == 2
    assert said in the_line(result)
    folder = RunFolder("r")
    assert folder.checkpoint_steps() == [intact]
    assert not list(folder.checkpoints.glob(".*"))
    result = cli(*RUN, "ckpt_path=last")
    assert result.code == 0, result.err
    assert f"resuming after step {intact}" in result.out
    assert_as_whole(cli, whole)


def test_full_disk_in_a_stage(cli, unlimited):
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    result = cli(*RUN, "paths.cache_dir=own", "warm_start.steps=2")
    unlimited()
    assert result.code == 2
    assert "own/warm_start" in the_line(result)
    assert "the stage cannot be written (File too large)" in the_line(result)
    assert list(Path("own/warm_start").iterdir()) == []
    assert not Path("r").exists()


def test_folder_that_cannot_be_written_any_more(cli, whole):
    result = cli(*RUN, trouble("file_for_folder", 1))
    assert result.code == 2
    assert "r/rollouts: " in the_line(result)
    assert RunFolder("r").checkpoint_steps() == [1]
    Path("r/rollouts").unlink()
    Path("moved").rename("r/rollouts")
    assert cli(*RUN, "ckpt_path=last").code == 0
    assert_as_whole(cli, whole)


def test_data_file_that_is_gone_at_the_resume(cli, tmp_path):
    rows = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(8)]
    Path("rows.jsonl").write_text("\n".join(rows))
    write_policy(tmp_path / "policy", ["1 + 1? 2"])
    given = (
        "data=jsonl", "data.train=rows.jsonl", "data.val=null", "policy=hf", "policy.path=./policy",
        "reward=rule", "paths.run_dir=r", "data.problems_per_step=2", "group_size=2",
        "sampling.max_new_tokens=4", "logger=none", "quiet=true",
    )  # fmt: skip
    result = cli(*given, "trainer.max_steps=1", small=False)
    assert result.code == 0, result.err
    before = {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()}
    Path("rows.jsonl").unlink()
    result = cli(*given, "trainer.max_steps=2", "ckpt_path=last", small=False)
    assert result.code == 2
    assert "rows.jsonl: no such file" in the_line(result)
    assert {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()} == before


POOLED = "verifier._target_=trouble.Pooled"


def test_killed_workers_are_replaced(cli, children):
    before = children()
    assert cli(*RUN, "verifier=math", POOLED).code == 0
    alone = metrics_of(Path("r"))
    shutil.rmtree("r")
    result = cli(*RUN, "verifier=math", POOLED, trouble("kill_workers", 2))
    assert result.code == 0, result.err
    assert metrics_of(Path("r")) == alone
    reasons = {row["reason"] for step in (1, 2, 3) for row in rollouts_of(Path("r"), step)}
    assert not [reason for reason in reasons if "worker" in reason]
    assert children() == before


@pytest.mark.parametrize(
    ("what", "value", "code", "status"),
    [
        ("signal", int(signal.SIGINT), 130, "interrupted"),
        ("signal", int(signal.SIGTERM), 143, "interrupted"),
        ("error", 0, None, "failed"),
    ],
)
def test_no_end_leaves_a_process(cli, children, what, value, code, status):
    before = children()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    given = (*RUN, "verifier=math", POOLED, trouble(what, 2, value=value))
    if code is None:
        with pytest.raises(RuntimeError, match="a user's own"):
            cli(*given)
    else:
        result = cli(*given)
        assert result.code == code, result.err
        assert "finishing this step" in result.err
        assert RunFolder("r").checkpoint_steps() == [2]
    assert children() == before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert json.loads(Path("r/summary.json").read_text())["status"] == status


def test_sigterm_in_a_stage_ends_it_and_leaves_nothing(cli, monkeypatch):
    def asked(self, batch, batch_idx):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(SupervisedModule, "training_step", asked)
    result = cli(*RUN, "paths.cache_dir=own")
    assert result.code == 143
    assert result.err.strip().splitlines()[-1] == "cooper-train: terminated"
    assert list(Path("own/warm_start").iterdir()) == []


def test_two_processes_in_one_folder_are_refused(cli):
    assert cli(*RUN, "trainer.max_steps=1").code == 0
    with RunFolder("r").claimed():
        result = cli(*RUN, "trainer.max_steps=2", "ckpt_path=last")
    assert result.code == 2
    assert "another process is at work in this run folder" in the_line(result)
    assert cli(*RUN, "trainer.max_steps=2", "ckpt_path=last").code == 0


def test_tensorboard_shows_no_step_twice(cli):
    given = (*RUN, "checkpoints.keep_last=0", "logger=tensorboard")
    assert cli(*given).code == 0
    assert cli(*given, "ckpt_path=r/checkpoints/000001").code == 0
    events = EventAccumulator("r/tensorboard")
    events.Reload()
    assert [event.step for event in events.Scalars("reward/mean")] == [1, 2, 3]


STATEFUL = """
from cooper.rewards import HybridReward
class Moody(HybridReward):
    state = None
    def state_dict(self):
        return {"mood": [1.0, self.state]}
    def load_state_dict(self, state):
        raise AssertionError
"""


def test_state_that_needs_code_to_load_is_refused_before_the_first_step(cli, tmp_path):
    (tmp_path / "moody.py").write_text(STATEFUL + "    state = {1, 2}\n")
    result = cli(*RUN, "reward._target_=moody.Moody")
    assert result.code == 2
    assert "reward: state_dict() of Moody holds a builtins.set" in the_line(result)
    assert not Path("r/metrics.jsonl").exists()
