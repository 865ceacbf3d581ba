"""Runs whose assistant or judge stands behind a server that goes away for two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lightning as L
import pytest
from small_runs import metrics_of, rollouts_of

from cooper.callbacks.base import StepCallback
from cooper.module import CooperModule, StepRecord
from stand_in_endpoint import StandIn

LAST_BEFORE, LAST_WITHOUT, STEPS = 1, 3, 5  # steps 2 and 3 have no server


class Power:
    """A server that can be switched off and on again at the same address."""

    def __init__(self, answer: Callable[[list[dict[str, str]]], str] | None = None) -> None:
        self.answer = answer
        self.server = StandIn(answer=answer).start()
        self.base_url = self.server.base_url
        self.port = int(self.base_url.split(":")[2].split("/")[0])
        self.asked: list[int] = []

    def off(self) -> None:
        self.asked.append(len(self.server.log))
        self.server.close()

    def on(self) -> None:
        self.server = StandIn(answer=self.answer, port=self.port).start()


POWER: list[Power] = []


class Outage(StepCallback):
    """Switches the server off after one step and on after another."""

    def on_step(self, trainer: L.Trainer, module: CooperModule, record: StepRecord) -> None:
        if record.step == LAST_BEFORE:
            POWER[-1].off()
        if record.step == LAST_WITHOUT:
            POWER[-1].on()


OUTAGE = f"+callbacks.outage._target_={__name__}.Outage"


@pytest.fixture
def power() -> Iterator[Callable[..., Power]]:
    def start(answer: Callable[[list[dict[str, str]]], str] | None = None) -> Power:
        POWER.append(Power(answer))
        return POWER[-1]

    yield start
    POWER.pop().off()


def wrong(messages: list[dict[str, str]]) -> str:
    return "I miscounted. So the answer is \\boxed{-1}."


def by_step(rows: list[dict], key: str) -> list[float]:
    """A figure of steps 1 to 5."""
    return [row[key] for row in rows if row.get("step", 0) > 0]


def test_pairs_come_back_with_the_assistants_server(cli, tmp_path, power, recwarn) -> None:
    server = power(wrong)
    result = cli(
        "paths.run_dir=r", f"trainer.max_steps={STEPS}", "negatives=assistant_endpoint",
        f"negatives.chat.base_url={server.base_url}", "negatives.chat.model=m",
        "negatives.chat.retries=1", "negatives.chat.backoff=0.01", OUTAGE,
        "data.problems_per_step=16",
    )  # fmt: skip
    assert result.code == 0, result.err
    rows = metrics_of(tmp_path / "r")
    built, lost = by_step(rows, "pairs/built"), by_step(rows, "pairs/dropped_no_reply")
    assert len(built) == STEPS
    assert built[0] > 0
    assert built[1:3] == [0, 0]
    assert sum(built[3:]) > 0
    assert lost[0] == lost[3] == lost[4] == 0
    assert min(lost[1:3]) > 0
    (told,) = [str(w.message) for w in recwarn if "negatives.chat" in str(w.message)]
    assert "pairs are dropped" in told
    # What was written by it is what the reward model was shown.
    kept = [row for step in (1, 4, 5) for row in rollouts_of(tmp_path / "r", step)]
    negatives = [row for row in kept if row["negative"] is not None]
    assert len(negatives) == built[0] + built[3] + built[4]
    assert {row["negative"] for row in negatives} == {wrong([])}
    assert {row["negative_source"] for row in negatives} == {"assistant"}
    # Without pairs the reward model stands still; the policy goes on.
    losses = [row.get("reward_model/loss") for row in rows if row.get("step", 0) > 0]
    assert [loss is None for loss in losses] == [b == 0 for b in built]
    assert all(by_step(rows, "policy/grad_norm"))


def test_a_run_goes_on_while_its_judges_server_is_away(cli, tmp_path, power) -> None:
    server = power()  # judges by the last box
    result = cli(
        "paths.run_dir=r", f"trainer.max_steps={STEPS}", "reward=hybrid", "verifier=hybrid",
        "verifier@verifier.rule=numeric_boxed", "verifier.policy=rule_then_judge",
        f"verifier.judge.chat.base_url={server.base_url}", "verifier.judge.chat.model=m",
        "verifier.judge.chat.retries=1", "verifier.judge.chat.backoff=0.01",
        "verifier.judge.cache=null", "verifier.judge.max_seconds=60", OUTAGE,
    )  # fmt: skip
    assert result.code == 0, result.err
    undecided = by_step(metrics_of(tmp_path / "r"), "verifier/undecided")
    assert undecided[0] == undecided[3] == undecided[4] == 0
    assert min(undecided[1:3]) > 0  # half of the references are words, which the rule cannot read
    verdicts = rollouts_of(tmp_path / "r", 2)
    open_ones = [row for row in verdicts if row["verdict"] == "undecided"]
    assert open_ones
    assert all("no reply" in row["reason"] for row in open_ones)
    assert {row["role"] for row in open_ones} == {"none"}  # neither chosen nor rejected
    assert server.asked[0] > 0


def test_an_address_is_needed(cli) -> None:
    result = cli("paths.run_dir=r", "negatives=assistant_endpoint")
    assert result.code == 2
    assert "negatives.chat.base_url" in result.err
