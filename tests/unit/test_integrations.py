"""Reward functions for other trainers: what they read, and one verifier a process."""

from __future__ import annotations

import concurrent.futures
import functools
import importlib
import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cooper.errors import ConfigError, DataError
from cooper.integrations import trl, verl
from cooper.integrations.per_process import PerProcess, Together
from cooper.models import RewardModel
from cooper.types import Status, Verdict
from cooper.verifiers import MathVerifier, NumericVerifier, Verifier

LETTERS = {"C": Status.CORRECT, "I": Status.INCORRECT, "U": Status.UNDECIDED}


class Told(Verifier):
    """Gives the verdict that the completion's first letter names, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.closed = 0

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        self.asked += zip(completions, references, questions or [], strict=True)
        return [Verdict(LETTERS[completion[0]]) for completion in completions]

    def close(self) -> None:
        self.closed += 1


# ------------------------------------------------------------------------------------------ TRL


def test_trl_verdicts_become_one_zero_and_none() -> None:
    told, logged = Told(), {}
    reward = trl.VerifierReward(told)
    got = reward(
        ["q1", "q2", "q3"],
        ["C", "I", "U"],
        solution=["So \\boxed{1}.", "2", "work\n#### 3"],
        completion_ids=[[1], [2], [3]],
        trainer_state=object(),
        log_metric=logged.__setitem__,
    )
    assert got == [1.0, 0.0, None]
    assert told.asked == [("C", "1", "q1"), ("I", "2", "q2"), ("U", "3", "q3")]
    assert logged == {"verifier/undecided": pytest.approx(1 / 3)}
    assert trl.VerifierReward(told, undecided=0.5)(["q"], ["U"], answer=["1"]) == [0.5]
    assert reward([], [], solution=[]) == []


def test_trl_chats_are_read_and_rows_without_a_reference_have_no_reward() -> None:
    told = Told()
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 4?"}]
    chats = [
        [{"role": "assistant", "content": "I 8"}],
        [{"role": "assistant", "content": [{"type": "text", "text": t} for t in ("C ", "7")]}],
        [{"role": "assistant", "content": "U"}],
        [{"role": "assistant", "content": "no"}, {"role": "tool", "content": "x"},
         {"role": "assistant", "content": "C 7"}],
    ]  # fmt: skip
    got = trl.VerifierReward(told)([prompt] * 4, chats, ground_truth=["7", "7", None, "7"])
    assert got == [0.0, 1.0, None, 1.0]
    assert told.asked == [("I 8", "7", "3 + 4?"), ("C 7", "7", "3 + 4?"), ("C 7", "7", "3 + 4?")]
    assert trl.text_of([{"role": "assistant", "content": None}]) == ""
    assert trl.text_of([]) == ""


def test_trl_columns_are_chosen_and_a_missing_one_is_named() -> None:
    told = Told()
    # A column of the question goes before the prompt, which holds instructions too.
    trl.VerifierReward(told)(["3+4? Box it."], ["C"], problem=["3+4?"], answer=["7"])
    trl.VerifierReward(told, reference="gold", question="ask")(["p"], ["C"], gold=["7"], ask=["q"])
    trl.VerifierReward(told)(["p"], ["C"], reward_model=[{"ground_truth": "7", "style": "rule"}])
    assert told.asked == [("C", "7", "3+4?"), ("C", "7", "q"), ("C", "7", "p")]
    with pytest.raises(
        DataError, match=r"no column answer, .* \(it has: level\); name .*reference="
    ):
        trl.VerifierReward(told)(["p"], ["C"], level=["easy"])
    with pytest.raises(DataError, match=r"no column gold .*reference="):
        trl.VerifierReward(told, reference="gold")(["p"], ["C"], answer=["7"])
    with pytest.raises(DataError, match="no column ask"):
        trl.VerifierReward(told, question="ask")(["p"], ["C"], answer=["7"])
    with pytest.raises(ConfigError, match="verifier='math': give a verifier, its class"):
        trl.VerifierReward("math")


def test_trl_model_reward_is_the_models_probability(
    reward_model: RewardModel, reward_folder: Path
) -> None:
    questions, answers, texts = ["3 + 4?", "1 + 1?"], ["7", "2"], ["It is 7.", "It is 3."]
    expected = reward_model.probabilities(questions, answers, texts).tolist()
    for source in (reward_model, reward_folder, str(reward_folder)):
        reward = trl.ModelReward(source, device="cpu")
        assert reward(questions, texts, answer=answers) == pytest.approx(expected, abs=1e-6)
        assert reward(questions, texts, answer=["7", None])[1] is None
    assert reward.__name__ == "reward_model"
    by_path = pickle.loads(pickle.dumps(trl.ModelReward(str(reward_folder))))
    assert by_path(questions, texts, answer=answers) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(TypeError, match="loaded reward model is not sent"):
        pickle.dumps(trl.ModelReward(reward_model))


# ----------------------------------------------------------------------------------------- veRL


@pytest.fixture
def fresh() -> Iterator[None]:
    """What the functions of veRL keep for the process is made anew, and closed afterwards."""
    verl._start_anew()
    yield
    for made in verl._MADE.verifiers.values():
        made.close()
    verl._start_anew()


@pytest.mark.usefixtures("fresh")
def test_verl_gets_its_figures() -> None:
    def ask(text: str, truth: Any, **more: Any) -> dict[str, Any]:
        return verl.compute_score(
            data_source="gsm8k", solution_str=text, ground_truth=truth, extra_info={}, **more
        )

    assert ask("So \\boxed{7}.", "3 + 4 = 7\n#### 7") == {
        "score": 1.0, "acc": 1.0, "undecided": 0.0, "pred": "7",
    }  # fmt: skip
    assert ask("So \\boxed{8}.", 7)["score"] == 0.0
    open_ = ask("So \\boxed{8}.", "", undecided=0.25, reward_router_address=None)
    assert (open_["score"], open_["acc"], open_["undecided"]) == (0.25, 0.0, 1.0)
    assert len(verl._MADE.verifiers) == 1
    ask("7", "7", workers=2)
    assert len(verl._MADE.verifiers) == 2


@pytest.mark.usefixtures("fresh")
def test_verl_scores_by_the_model_and_names_a_missing_question(
    reward_model: RewardModel, reward_folder: Path
) -> None:
    call = functools.partial(verl.model_score, path=str(reward_folder), device="cpu")
    texts = [f"It is {number}." for number in range(12)]
    expected = reward_model.probabilities(["3 + 4?"] * 12, ["7"] * 12, texts).tolist()
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        got = threads.map(lambda text: call("mine", text, "7", {"question": "3 + 4?"}), texts)
        assert list(got) == pytest.approx(expected, abs=1e-6)
    assert len(verl._MADE.models) == 1
    again = call("mine", texts[3], "3 + 4 = 7\n#### 7", {"question": "3 + 4?"})
    assert again == pytest.approx(expected[3], abs=1e-6)
    with pytest.raises(DataError, match=r"data_source=mine: .*'question' \(it holds: index\)"):
        call("mine", "7", "7", {"index": 3})
    with pytest.raises(DataError, match="it holds: nothing"):
        call("mine", "7", "7")


def test_the_signature_is_verls() -> None:
    # veRL 0.9.1 passes these four by keyword, and a router's address where it has a router.
    for function in (verl.compute_score, verl.model_score):
        parameters = inspect.signature(function).parameters
        assert list(parameters)[:4] == ["data_source", "solution_str", "ground_truth", "extra_info"]
        assert parameters["extra_info"].default is None
        assert [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]


# ------------------------------------------------------------------------------- one a process


def test_the_thing_is_made_once_for_all_threads_and_closed_once() -> None:
    made: list[Told] = []

    def make() -> Told:
        time.sleep(0.05)
        made.append(Told())
        return made[-1]

    one = PerProcess(make)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        things = list(threads.map(lambda _: one.get(), range(8)))
    assert set(map(id, things)) == {id(made[0])}
    one.close()
    one.close()
    assert (len(made), made[0].closed) == (1, 1)
    assert one.get() is made[1]
    one.close()


def get_and_close(one: PerProcess[Told]) -> None:
    """In a forked process: the thing is this process's own."""
    one.get().asked.append(("here", "", ""))
    assert one.get().asked == [("here", "", "")]
    one.close()


def test_a_fork_while_a_thread_makes_the_thing_leaves_no_lock_behind() -> None:
    one = PerProcess(Told)
    one.get().asked.append(("parent", "", ""))
    context: Any = multiprocessing.get_context("fork")
    with one._lock:  # as another thread may hold it
        process = context.Process(target=get_and_close, args=(one,))
        process.start()
        process.join(30)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode == 0
    assert one.get().asked == [("parent", "", "")]
    assert one.get().closed == 0
    one.close()


def ask_math(reward: Callable[..., list[float | None]], pipe: Any) -> None:
    """In another process: verify by computer algebra, and say who did it."""
    got = reward(["q"], ["\\boxed{\\frac{x^2-1}{x-1}}"], answer=["x+1"])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for listing in Path("/proc/self/task").glob("*/children"):
        children += listing.read_text().split()
    pipe.send((got, sorted(set(map(int, children)))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_process_has_a_verifier_of_its_own_that_ends_with_it(
    method: str, children: Callable[[], dict[int, str]]
) -> None:
    reward = trl.VerifierReward(functools.partial(MathVerifier, wall_seconds=30))
    question = (["q"], ["\\boxed{\\frac{x^2-1}{x-1}}"])
    assert reward(*question, answer=["x+1"]) == [1.0]
    mine = {pid for pid, name in children().items() if "cooper.verifiers" in name}
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=ask_math, args=(reward, there))
    process.start()
    got, theirs = here.recv()
    process.join(60)
    assert process.exitcode == 0
    assert got == [1.0]
    assert theirs
    assert not set(theirs) & mine
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in theirs) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in theirs if Path(f"/proc/{pid}").exists()]
    assert reward(*question, answer=["x+2"]) == [0.0]  # the parent's is as it was
    reward.close()


def test_a_verifier_that_is_there_stays_with_its_owner() -> None:
    told = Told()
    reward = trl.VerifierReward(told)
    reward.close()
    assert told.closed == 0
    with pytest.raises(TypeError, match=r"a Told has processes .* functools\.partial\(Told"):
        pickle.dumps(reward)
    copy = pickle.loads(pickle.dumps(trl.VerifierReward(NumericVerifier)))
    assert copy(["q"], ["\\boxed{7}"], answer=["7"]) == [1.0]
    copy.close()


def test_items_that_wait_are_done_together_and_an_error_reaches_each() -> None:
    gate, batches = threading.Event(), []

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        if len(batches) == 1:
            gate.wait(10)
        if -1 in items:
            raise ValueError("no")
        return [2 * item for item in items]

    together = Together(work)
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        first = threads.submit(together, 1)
        while not batches:
            time.sleep(0.001)
        others = [threads.submit(together, item) for item in (2, 3, 4)]
        while len(together._waiting) < 3:
            time.sleep(0.001)
        gate.set()
        assert [first.result(), *(other.result() for other in others)] == [2, 4, 6, 8]
    assert batches[0] == [1]
    assert sorted(batches[1]) == [2, 3, 4]
    with pytest.raises(ValueError, match="no"):
        together(-1)
    assert together(5) == 10


def test_neither_library_nor_torch_is_imported() -> None:
    code = (
        "import sys; from cooper.integrations import trl, verl;"
        "reward = trl.VerifierReward(); print([m for m in ('trl', 'verl', 'torch', 'lightning')"
        " if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert importlib.import_module("cooper.integrations.trl") is trl
