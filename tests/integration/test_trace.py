"""``trace=true``: the phases of a run, and what the verifier did meanwhile."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from small_runs import metrics_of

GIVEN = (
    "paths.run_dir=r", "reward=cooper",
    "checkpoints.every=1", "algorithm.micro_batch_tokens=120",
)  # fmt: skip


def spans(path: Path) -> list[dict]:
    return [event for event in json.loads(path.read_text()) if event["ph"] == "X"]


def end(event: dict) -> float:
    return event["ts"] + event["dur"]


def within(event: dict, other: dict) -> bool:
    return other["ts"] <= event["ts"] and end(event) <= end(other) + 1e-3  # microseconds


def test_a_run_and_its_trace(cli) -> None:
    result = cli(*GIVEN, "trainer.max_steps=2", "trace=true")
    assert result.code == 0, result.err
    path = Path("r/trace/000000.json")
    events = spans(path)
    main = next(e["tid"] for e in events if e["name"] == "step")
    by_name = defaultdict(list)
    for event in events:
        by_name[event["name"]].append(event)

    # The phases add up to the figures of each step.
    rows = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()][1:]
    steps = by_name["step"]
    assert [step["args"]["step"] for step in steps] == [row["step"] for row in rows] == [1, 2]
    for step, row in zip(steps, rows, strict=True):
        inside = [e for e in events if e["tid"] == main and within(e, step)]
        for key, seconds in row.items():
            name = key.removeprefix("time/")
            if name != key and name != "monitor":
                total = sum(e["dur"] for e in inside if e["name"] == name)
                assert total / 1e6 == pytest.approx(seconds, abs=1e-6), key

    # Parts stand in their phases, what lies between steps outside of them.
    for part, phase in (
        ("hand over", "sample"), ("policy forward", "policy"), ("policy backward", "policy"),
        ("policy optimizer", "policy"), ("negatives", "pairs"), ("negatives' verdicts", "pairs"),
        ("reward_model forward", "reward_model"), ("reward_model backward", "reward_model"),
        ("reward_model optimizer", "reward_model"),
    ):  # fmt: skip
        assert by_name[part], part
        assert all(any(within(e, p) for p in by_name[phase]) for e in by_name[part]), part
    assert len(by_name["policy forward"]) == len(by_name["policy backward"]) > 2 * 2
    for name, count in (("validation", 2), ("checkpoint", 2), ("monitor", 2)):
        assert len(by_name[name]) == count, name
        assert not any(within(e, step) for e in by_name[name] for step in steps), name

    # Every group's verification has its own span, on a thread of its own, beside the sampling.
    groups = [
        e for e in by_name["verify"]
        if e["tid"] != main and any(s["ts"] <= e["ts"] < end(s) for s in steps)
    ]  # fmt: skip
    assert len(groups) == len(by_name["hand over"]) == 2 * 6
    named = [e for e in json.loads(path.read_text()) if e["name"] == "thread_name"]
    names = {e["tid"]: e["args"]["name"] for e in named}
    assert names[main] == "MainThread"
    assert {names[e["tid"]] for e in groups} == {"verifier_0"}
    beside = [
        e for e in groups for s in by_name["sample"] if s["ts"] <= e["ts"] and end(e) < end(s)
    ]
    assert beside


def test_a_resumed_run_adds_a_part_and_the_trace_changes_no_figure(cli) -> None:
    assert cli(*GIVEN, "trainer.max_steps=2").code == 0
    assert not Path("r/trace").exists()
    plain = metrics_of(Path("r"))
    Path("r").rename("plain")
    assert cli(*GIVEN, "trainer.max_steps=1", "trace=true").code == 0
    assert cli(*GIVEN, "trainer.max_steps=2", "trace=true", "ckpt_path=last").code == 0
    parts = sorted(Path("r/trace").iterdir())
    assert [p.name for p in parts] == ["000000.json", "000001.json"]
    told = [[e["args"]["step"] for e in spans(p) if e["name"] == "step"] for p in parts]
    assert told == [[1], [2]]
    # The first part's run ended with an evaluation that the whole run does not make.
    keys = [key for key in plain[-1] if not key.startswith("val/")]
    assert [{k: row.get(k) for k in keys} for row in metrics_of(Path("r"))] == [
        {k: row.get(k) for k in keys} for row in plain
    ]
