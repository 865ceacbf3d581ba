"""cooper-annotate: killed and started again, with bad input, and with completions of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from cooper.annotation import AnnotationFolder
from cooper.cli.annotate import main
from cooper.data.labelled import read_labelled
from cooper.testing import write_policy
from stand_in_endpoint import StandIn

WAIT = 120  # seconds; a generous bound against hanging, nothing is timed
KAPPA = "Cohen's kappa"


@dataclass
class Result:
    """What one command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """``cli("data.path=...")``: the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # main() adds to it

    def call(*overrides: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["cooper-annotate", *overrides])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, captured.out, captured.err)

    return call


def rows_of(count: int, seed: int = 0) -> list[dict]:
    """Labelled sums: every fifth completion stands there twice, some references in words."""
    rng = random.Random(seed)
    rows: list[dict] = []
    while len(rows) < count:
        a, b = rng.randrange(100), rng.randrange(100)
        right = rng.random() < 0.5
        answer = a + b if right else a + b + rng.randrange(1, 9)
        row = {
            "id": f"row {len(rows)}",
            "question": f"{a} + {b}?",
            "reference_answer": str(a + b),
            "completion": f"{a} + {b} = {answer}. So \\boxed{{{answer}}}.",
            "label": int(right),
        }
        rows.append(row)
        if len(rows) % 5 == 0:
            rows.append({**row, "id": f"row {len(rows)}"})
    return rows[:count]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------- bad input

BAD = {
    "no data": (["output=o"], ["data.path=???", "give data.path=FILE"]),
    "no output": (["data.path=good.jsonl"], ["output=???", "give output=FOLDER"]),
    "no such file": (["data.path=none.jsonl", "output=o"], ["none.jsonl", "no such file"]),
    "broken row": (["data.path=broken.jsonl", "output=o"], ["broken.jsonl, line 3", "column"]),
    "no completion": (["data.path=problems.jsonl", "output=o"], ["line 1", "'completion'"]),
    "unknown key": (["data.path=good.jsonl", "output=o", "retry=1"], ["retry", "no such key"]),
    "other combination": (
        ["data.path=good.jsonl", "output=o", "combine=vote"],
        ["combine=vote", "agree, rule_then_judge, either, both"],
    ),
    "unknown judge": (["data.path=good.jsonl", "output=o", "judge=me"], ["endpoint, local, none"]),
    "file for a folder": (["data.path=good.jsonl", "output=good.jsonl"], ["output=good.jsonl"]),
    "a column for what is made": (
        [
            "data.path=good.jsonl", "output=o", "completions=generate",
            "generator.base_url=http://h", "generator.model=m", "data.completion_column=c",
        ],
        ["data.completion_column=c", "completions=file"],
    ),
    "no completions": (
        [
            "data.path=good.jsonl", "output=o", "completions=generate", "completions.n=0",
            "generator.base_url=http://h", "generator.model=m",
        ],
        ["completions.n=0", "1 or more"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(cli, tmp_path, case):
    overrides, expected = BAD[case]
    good = rows_of(2)
    write(tmp_path / "good.jsonl", good)
    write(tmp_path / "problems.jsonl", [{"question": "q", "answer": "1"}])
    (tmp_path / "broken.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in good) + '{"question":  \n'
    )
    judge = [] if any(o.startswith("judge=") for o in overrides) else ["judge=none"]
    result = cli(*overrides, *judge)
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert (result.code, len(lines)) == (2, 1), result.err
    assert lines[0].startswith("cooper-annotate: error: ")
    for text in expected:
        assert text in lines[0]
    assert not (tmp_path / "o").exists()


def test_broken_rows_are_skipped_and_counted_when_told(cli, tmp_path):
    good = rows_of(3)
    (tmp_path / "set.jsonl").write_text(
        f'{json.dumps(good[0])}\n{{"question":\n{json.dumps(good[1])}\n{{"question": "q"}}\n'
    )
    result = cli("data.path=set.jsonl", "output=o", "judge=none", "data.skip_bad=true")
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert (summary["rows"], summary["skipped"]) == (2, 2)
    assert "set.jsonl, line 2" in summary["first_skipped"]


def test_a_folder_of_other_settings_is_refused_and_says_which(cli, tmp_path):
    write(tmp_path / "set.jsonl", rows_of(4))
    given = ("data.path=set.jsonl", "output=o", "judge=none", "quiet=true")
    assert cli(*given).code == 0
    assert cli(*given, "rule.workers=2").code == 0
    result = cli(*given, "rule.allow_stated=false")
    assert result.code == 2
    assert "rule.allow_stated: True -> False" in result.err
    write(tmp_path / "set.jsonl", rows_of(5))
    result = cli(*given)
    assert result.code == 2
    assert "data: 4 rows" in result.err


def test_two_processes_in_one_folder_are_refused(cli, tmp_path):
    write(tmp_path / "set.jsonl", rows_of(2))
    with AnnotationFolder(tmp_path / "o").claimed():
        result = cli("data.path=set.jsonl", "output=o", "judge=none")
    assert result.code == 2
    assert "another process is writing verdicts into this folder" in result.err


# ---------------------------------------------------------------- killed and started again

CHATS = {"judge": "judge.chat", "generator": "generator"}
# No garbage: whether it lies is drawn for each conversation, and a judge that gave no verdict is
# asked in another one, so that labels would depend on how often a row was asked.
FAILING = {"lie": 0.1, "rate_limit": 0.1, "error": 0.15, "close": 0.05}


class Killer(StandIn):
    """Kills a process group just before it answers a given request."""

    def __init__(self, **settings) -> None:
        super().__init__(FAILING, seed=5, latency=0.01, **settings)
        self.answers_given, self.at = 0, 0
        self.victim: subprocess.Popen | None = None
        self.counting = threading.Lock()

    def text(self, messages, lie, rng):
        with self.counting:
            self.answers_given += 1
            if self.victim is not None and self.answers_given == self.at:
                os.killpg(self.victim.pid, signal.SIGKILL)
        return super().text(messages, lie, rng)

    def settings(self, part: str) -> list[str]:
        chat = CHATS[part]
        return [
            f"{chat}.base_url={self.base_url}", f"{chat}.model=m", f"{chat}.retries=20",
            f"{chat}.backoff=0.01", f"{chat}.concurrency={CONCURRENCY}",
        ]  # fmt: skip

    def run(self, home: Path, *overrides: str, at: int = 0, signum: int = 0) -> tuple[int, str]:
        """Let one process live until it ends, or is killed `at` so many answers from now."""
        self.at = self.answers_given + at if at else 0
        self.victim = subprocess.Popen(
            [sys.executable, "-m", "cooper.cli.annotate", *overrides],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        out, _ = self.victim.communicate(timeout=WAIT)
        return self.victim.returncode, out


CONCURRENCY = 4


def said_in(path: Path) -> list[dict]:
    """Rows without the judge's words, which the endpoint draws anew for each request."""
    rows = lines_of(path)
    for row in rows:
        del row["judge"]["reason"]
    return rows


def test_killed_and_started_again_it_loses_doubles_and_asks_nothing_twice(cli, tmp_path):
    rows = rows_of(90)
    data = write(tmp_path / "set.jsonl", rows)
    rng = random.Random(int(os.environ.get("COOPER_KILL_SEED", "0")))
    with Killer(table=rows) as server:
        given = (f"data.path={data}", *server.settings("judge"))
        kills = [rng.randrange(1, 25) for _ in range(2)]
        for at in kills:
            code, out = server.run(tmp_path, *given, "output=killed", at=at)
            assert code == -signal.SIGKILL, out
            assert not (tmp_path / "killed" / "labelled.jsonl").exists()
        result = cli(*given, "output=killed")
        assert result.code == 0, result.err
        assert KAPPA in result.out
        twice = server.answered_twice()
        asked = server.counts()["requests"]
        # Once more, with all there: nothing is asked.
        assert cli(*given, "output=killed").code == 0
        assert server.counts()["requests"] == asked
    with Killer(table=rows) as server:
        given = (f"data.path={data}", *server.settings("judge"))
        assert cli(*given, "output=whole").code == 0
    # What was on its way when a process died is all that may be asked again.
    assert len(twice) <= CONCURRENCY * len(kills)
    killed, whole = AnnotationFolder(tmp_path / "killed"), AnnotationFolder(tmp_path / "whole")
    assert killed.parquet.read_bytes() == whole.parquet.read_bytes()
    labelled, dropped = said_in(killed.labelled), said_in(killed.dropped)
    assert (labelled, dropped) == (said_in(whole.labelled), said_in(whole.dropped))
    ids = [row["id"] for row in rows]
    assert sorted(row["id"] for row in labelled + dropped) == sorted(ids)
    assert [row["id"] for row in labelled] == [
        i for i in ids if i in {row["id"] for row in labelled}
    ]
    # The rule reads all of these: what is left is right, and the judge's lies are dropped.
    known = {row["id"]: row["label"] for row in rows}
    assert all(row["label"] == known[row["id"]] for row in labelled)
    assert {row["dropped"] for row in dropped} == {"rule and judge disagree"}
    summary = json.loads(killed.summary.read_text())
    assert summary["distinct"] < 90
    assert summary["agreement"]["both_decided"] == 90
    assert summary["agreement"]["raw"] == pytest.approx(1 - len(dropped) / 90)


def test_killed_while_generating(cli, tmp_path):
    problems = [{"question": f"What is {a} + 7?", "answer": a + 7} for a in range(20, 32)]
    data = write(tmp_path / "problems.jsonl", problems)
    with Killer(table=problems) as server:
        given = (
            f"data.path={data}", "output=o", "completions=generate", "completions.n=2",
            "generator=endpoint", "judge=none", *server.settings("generator"),
        )  # fmt: skip
        code, out = server.run(tmp_path, *given, at=11)
        assert code == -signal.SIGKILL, out
        result = cli(*given)
        assert result.code == 0, result.err
        assert len(server.answered_twice()) <= CONCURRENCY
    rows = lines_of(tmp_path / "o" / "labelled.jsonl")
    assert [row["id"] for row in rows] == [
        f"problems:{i}/{k}" for i in range(1, 13) for k in (0, 1)
    ]
    assert {row["label"] for row in rows} == {0, 1}  # it lies now and then
    assert all(
        str(20 + i // 2 + 7) in row["completion"] for i, row in enumerate(rows) if row["label"]
    )


def test_ctrl_c_keeps_what_was_said_and_tells_how_to_go_on(cli, tmp_path):
    rows = rows_of(60)
    data = write(tmp_path / "set.jsonl", rows)

    class Interrupter(Killer):
        def text(self, messages, lie, rng):
            with self.counting:
                self.answers_given += 1
                if self.victim is not None and self.answers_given == 20:
                    self.victim.send_signal(signal.SIGINT)
            return StandIn.text(self, messages, lie, rng)

    with Interrupter(table=rows) as server:
        given = (f"data.path={data}", "output=o", *server.settings("judge"))
        code, out = server.run(tmp_path, *given)
        assert code == 130, out
        assert "of 60 rows labelled; the same command goes on from there" in out
        assert "Traceback" not in out
        result = cli(*given)
        assert result.code == 0, result.err
        assert len(server.answered_twice()) <= CONCURRENCY
    ids = [
        r["id"] for name in ("labelled", "dropped") for r in lines_of(tmp_path / f"o/{name}.jsonl")
    ]
    assert sorted(ids) == sorted(row["id"] for row in rows)


# ---------------------------------------------------------------- an endpoint that is down


def test_an_endpoint_that_is_down_ends_nothing_and_is_asked_again_when_told(cli, tmp_path):
    rows = rows_of(12)
    write(tmp_path / "set.jsonl", rows)
    with Killer(table=rows) as server:
        settings = server.settings("judge")  # its address, where nobody listens in a moment
    settings = [s.replace("retries=20", "retries=1") for s in settings]
    result = cli("data.path=set.jsonl", "output=o", *settings)
    assert result.code == 0, result.err
    assert "the judge has given no verdict yet" in result.out
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["dropped"] == {"the judge gave no verdict": 12}
    assert summary["judge"] == {"correct": 0, "incorrect": 0, "undecided": 12}
    (kind,) = summary["judge_undecided"].values()
    assert kind["rows"] == 12
    assert "no reply" in kind["first"]
    with Killer(table=rows) as server:
        settings = server.settings("judge")  # another port
        result = cli("data.path=set.jsonl", "output=o", *settings)
        assert result.code == 0, result.err
        assert server.counts()["requests"] == 0
        result = cli("data.path=set.jsonl", "output=o", *settings, "retry_failed=true")
        assert result.code == 0, result.err
        assert len({talk[0]["content"] for talk in server.prompts}) == summary["distinct"]
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["judge"]["undecided"] == 0


# ---------------------------------------------------------------- a local model


def test_completions_of_a_local_model(cli, tmp_path):
    problems = [{"id": f"p{a}", "question": f"{a} + 1?", "answer": str(a + 1)} for a in range(3)]
    write(tmp_path / "problems.jsonl", problems)
    write_policy(tmp_path / "model", ["0 + 1? 1 2 3"])
    given = (
        "data.path=problems.jsonl", "completions=generate", "completions.n=2",
        "completions.max_new_tokens=8", "generator=local", "generator.path=model", "judge=none",
    )  # fmt: skip
    for output in ("a", "b"):
        result = cli(*given, f"output={output}")
        assert result.code == 0, result.err
    a, b = (
        [*lines_of(tmp_path / o / "labelled.jsonl"), *lines_of(tmp_path / o / "dropped.jsonl")]
        for o in "ab"
    )
    assert a == b
    assert sorted(row["id"] for row in a) == [f"p{i}/{k}" for i in range(3) for k in range(2)]
    assert len({row["completion"] for row in a}) > 1
    assert read_labelled(tmp_path / "a" / "labelled.parquet", both=False).items
