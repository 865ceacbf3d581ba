"""A run of two processes that is killed goes on, and ends as if it had not been."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from conftest import HANG, Place, Process, assert_same_learning, metrics

LORA = ("adapter@policy_adapter=lora", "adapter@reward_model_adapter=lora")
BF16 = "trainer.precision=bf16-mixed"


def until(found: Path, process: Process) -> None:
    """Wait for a file."""
    deadline = time.monotonic() + HANG
    while not found.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_of(parent: int) -> list[int]:
    """What a process has started, the last rank at the end."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return sorted(map(int, text.split()))


def ended(pids: list[int]) -> bool:
    """Whether none of them runs any more."""
    running = []
    for pid in pids:
        with contextlib.suppress(OSError):
            running.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return not set(running) - {"Z"}


def killed(place: Place, name: str, strategy: str, whom: str, *overrides: str) -> str:
    """Start a run, kill one process or the one that started them in step 5; give what it said."""
    stalling = "+callbacks.stall._target_=parts.Stall"
    process = place.start(*place.given(name, strategy, stalling, *overrides))
    until(place / name / "checkpoints" / "000004" / "trainer.pt", process)
    ranks = processes_of(process.pid)
    assert len(ranks) == 2
    os.kill({"parent": process.pid, "first": ranks[0], "last": ranks[-1]}[whom], signal.SIGKILL)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode != 0
    deadline = time.monotonic() + HANG
    while not ended(ranks):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return err


KILLED = {"ddp": "last", "zero2": "parent", "zero3": "first"}


@pytest.fixture(scope="module")
def resumed(plain: Place) -> Place:
    """Runs that were killed, or stopped, and went on in new processes."""
    jobs = []
    for strategy, whom in KILLED.items():
        err = killed(plain, f"killed_{strategy}", strategy, whom)
        if whom != "parent":
            assert "killed by SIGKILL" in err
        jobs.append(plain.given(f"killed_{strategy}", strategy, "ckpt_path=last"))
    # FSDP2, and float32 weights beside bfloat16 ones, go on from the middle of a whole run too.
    halves = [("half_fsdp2", "fsdp2", ())]
    for strategy in ("zero3", "fsdp2"):
        jobs.append(plain.given(f"lora_bf16_{strategy}", strategy, *LORA, BF16))
        halves.append((f"half_lora_bf16_{strategy}", strategy, (*LORA, BF16)))
    for strategy in ("zero2", "zero3"):
        jobs.append(plain.given(f"bf16_{strategy}", strategy, BF16))
        halves.append((f"half_bf16_{strategy}", strategy, (BF16,)))
    for name, strategy, more in halves:
        jobs.append(plain.given(name, strategy, *more, "trainer.max_steps=4"))
        jobs.append(plain.given(name, strategy, *more, "ckpt_path=last"))
    # From two processes to one, and to another strategy.
    for name in ("fewer", "other"):
        jobs.append(plain.given(name, "zero3", "trainer.max_steps=4"))
    jobs.append(plain.given("other", "ddp", "ckpt_path=last"))
    plain.jobs([("train", given) for given in jobs], 2)
    plain.jobs([("train", plain.given("fewer", None, "ckpt_path=last"))], 1)
    return plain


def assert_same_end(one: Path, other: Path) -> None:
    """Both models to the byte, and all metrics."""
    for model in ("policy", "reward_model"):
        files = [run / model / "model.safetensors" for run in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert metrics(one) == metrics(other)
    for file in (one / "rollouts").iterdir():
        assert file.read_bytes() == (other / "rollouts" / file.name).read_bytes()


@pytest.mark.parametrize("strategy", KILLED)
def test_a_killed_run_ends_as_if_it_had_not_been(resumed: Place, strategy: str) -> None:
    assert_same_end(resumed / strategy, resumed / f"killed_{strategy}")


@pytest.mark.parametrize(
    "name", ["fsdp2", "bf16_zero2", "bf16_zero3", "lora_bf16_zero3", "lora_bf16_fsdp2"]
)
def test_new_processes_go_on_to_the_bit(resumed: Place, name: str) -> None:
    assert_same_end(resumed / name, resumed / f"half_{name}")


@pytest.mark.parametrize("name", ["bf16_zero2", "bf16_zero3"])
def test_bfloat16_weights_have_float32_masters(resumed: Place, name: str) -> None:
    checkpoint = resumed / name / "checkpoints" / "000008"
    saved = torch.load(checkpoint / "trainer.pt", weights_only=True)["optimizers"]
    for optimizer in saved:
        for weight in optimizer.values():
            assert {value.dtype for value in weight.values()} == {torch.float32}
            # Not the bfloat16 ones once more.
    masters = torch.cat([weight["master"].flatten() for weight in saved[0].values()])
    assert float((masters - masters.bfloat16().float()).abs().max()) > 0


@pytest.mark.parametrize("name", ["fewer", "other"])
def test_another_number_of_processes_or_strategy_goes_on(resumed: Place, name: str) -> None:
    assert_same_learning(resumed / "single", resumed / name)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", KILLED)
@pytest.mark.parametrize("number", range(10))
def test_killed_at_any_moment(plain: Place, strategy: str, number: int) -> None:
    """At moments spread over a run: its start, its steps, its saves, its end."""
    name = f"kill_{number}_{strategy}"
    process = plain.start(*plain.given(name, strategy, "checkpoints.every=1"))
    if number:
        until(plain / name / "metrics.jsonl", process)
        time.sleep(0.4 * (number - 1))
    else:
        time.sleep(5)
    if process.poll() is None:
        victims = [*processes_of(process.pid), process.pid]
        with contextlib.suppress(ProcessLookupError):
            os.kill(victims[number % len(victims)], signal.SIGKILL)
    process.communicate(timeout=HANG)
    if not (plain / name / "summary.json").exists() or process.returncode:
        go_on = ["ckpt_path=last"] if list((plain / name).glob("checkpoints/0*")) else []
        if not go_on:  # there is nothing to go on from
            shutil.rmtree(plain / name, ignore_errors=True)
        done = plain.train(name, strategy, "checkpoints.every=1", *go_on)
        # Killed between its last step and its end, it may have nothing left to do.
        assert done.returncode == 0, done.stderr
    for model in ("policy", "reward_model"):
        files = [plain / run / model / "model.safetensors" for run in (strategy, name)]
        assert files[0].read_bytes() == files[1].read_bytes()
