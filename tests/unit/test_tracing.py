"""The trace: readable whenever the run ends, spans nested, each thread's on its own track."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from cooper.clock import PHASES, Clock
from cooper.tracing import each, flush, note, recording, span


def read(path: Path) -> list[dict[str, Any]]:
    """The events of a trace; the closing bracket may be missing."""
    text = path.read_text()
    return json.loads(text if text.endswith("]\n") else text + "]")


def spans(events: list[dict[str, Any]], name: str | None = None) -> list[dict[str, Any]]:
    return [e for e in events if e["ph"] == "X" and name in (None, e["name"])]


def assert_nested(events: list[dict[str, Any]]) -> None:
    """Within a thread one span lies in another or apart from it, which viewers need."""
    tracks: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    for event in spans(events):
        first = round(event["ts"] * 1e3)
        tracks[event["pid"], event["tid"]].append((first, first + round(event["dur"] * 1e3)))
    for track in tracks.values():
        around: list[int] = []
        for first, last in sorted(track, key=lambda s: (s[0], -s[1])):
            while around and around[-1] <= first:
                around.pop()
            assert not around or last <= around[-1]
            around.append(last)


def test_spans_of_two_threads(tmp_path: Path) -> None:
    path = tmp_path / "trace" / "000000.json"

    def work() -> None:
        with span("inside", count=3):
            pass

    with recording(path):
        with span("outside"):
            thread = threading.Thread(target=work, name="a worker")
            thread.start()
            thread.join()
            with span("later"):
                pass
        note("told", 1.5, 2.0)
    events = json.loads(path.read_text())
    assert_nested(events)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    (outside,), (inside,), (later,) = (spans(events, n) for n in ("outside", "inside", "later"))
    assert [names[e["tid"]] for e in (outside, inside)] == ["MainThread", "a worker"]
    assert len(names) == 2
    assert inside["args"] == {"count": 3}
    assert outside["ts"] <= inside["ts"] <= later["ts"]
    assert later["ts"] + later["dur"] <= outside["ts"] + outside["dur"]
    assert spans(events, "told")[0]["dur"] == pytest.approx(0.5e6)  # microseconds


def test_phases_are_those_of_the_clock(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "t.json"
    with recording(path):
        seconds = []
        for step in (1, 2):
            clock.start(step)
            for phase in (*PHASES, "sample"):
                with clock(phase):
                    sum(range(1000))
            seconds.append(clock.stop())
        events = read(path)  # written at the end of each step
    steps = spans(events, "step")
    assert [e["args"]["step"] for e in steps] == [1, 2]
    assert_nested(events)
    for told, step in zip(seconds, steps, strict=True):
        within = [e for e in spans(events) if step["ts"] <= e["ts"] < step["ts"] + step["dur"]]
        for phase in (*PHASES, "step"):
            total = sum(e["dur"] for e in spans(within, phase)) / 1e6
            assert total == pytest.approx(told[f"time/{phase}"], abs=1e-8)
    assert len(spans(events, "sample")) == 4


def test_each_item_has_a_span_and_the_end_none(tmp_path: Path) -> None:
    assert list(each("x", range(3))) == [0, 1, 2]
    with recording(tmp_path / "t.json"):
        assert list(each("x", iter(range(3)))) == [0, 1, 2]
    assert len(spans(read(tmp_path / "t.json"), "x")) == 3


def test_without_a_recording_nothing_is_noted(tmp_path: Path) -> None:
    with span("before"):
        note("before", 0, 1)
    with recording(tmp_path / "t.json"):
        pass
    with span("after"):
        flush()
    assert spans(json.loads((tmp_path / "t.json").read_text())) == []


def test_a_later_part_replaces_none(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        with recording(tmp_path / "000003.json"), span(name):
            pass
    parts = sorted(tmp_path.iterdir())
    assert [p.name for p in parts] == ["000003-2.json", "000003-3.json", "000003.json"]
    assert [spans(read(p))[0]["name"] for p in parts] == ["second", "third", "first"]


def test_one_recording_at_a_time_and_a_failed_one_ends(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), recording(tmp_path / "a.json"), span("failing"):
        _ = 1 / 0
    assert spans(json.loads((tmp_path / "a.json").read_text()))[0]["name"] == "failing"
    second = recording(tmp_path / "c.json")
    with (
        recording(tmp_path / "b.json"),
        pytest.raises(RuntimeError, match=r"b\.json: is being recorded"),
    ):
        second.__enter__()
    assert not (tmp_path / "c.json").exists()


def test_a_killed_process_leaves_what_it_had_done(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from cooper.clock import Clock
        from cooper.tracing import recording
        assert "torch" not in sys.modules
        with recording(Path("t.json")):
            for step in range(3):
                clock = Clock().start(step)
                with clock("sample"):
                    if step == 2:
                        os.kill(os.getpid(), signal.SIGKILL)
                clock.stop()
        """
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert [e["name"] for e in spans(read(tmp_path / "t.json"))] == ["sample", "step"] * 2
