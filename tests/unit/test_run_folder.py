"""The files of a run: written, cut back, found again."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cooper import run_folder
from cooper.errors import CheckpointError
from cooper.files import write_atomically
from cooper.monitoring import Alarm
from cooper.run_folder import RunFolder, find_checkpoint


def checkpoint(run: RunFolder, step: int, whole: bool = True) -> None:
    run.checkpoint(step).mkdir(parents=True)
    if whole:
        (run.checkpoint(step) / "trainer.pt").touch()


def test_metrics_come_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "new" / "run")
    assert run.read_metrics() == []
    run.append_metrics(1, {"a": 0.5})
    run.append_metrics(2, {"a": 1.5, "b": 2.0})
    assert run.read_metrics() == [{"step": 1, "a": 0.5}, {"step": 2, "a": 1.5, "b": 2.0}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_figures_that_are_not_finite_become_null(tmp_path: Path, value: float) -> None:
    run = RunFolder(tmp_path)
    run.append_metrics(1, {"a": value, "b": 1.0})
    assert run.metrics.read_text() == '{"step": 1, "a": null, "b": 1.0}\n'


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append_metrics(1, {"a": 1.0})
    whole = run.metrics.read_text()
    for cut in range(1, len(whole) - 1):
        run.metrics.write_text(whole + whole[:cut])
        assert run.read_metrics() == [{"step": 1, "a": 1.0}]
    run.cut_after(1)
    assert run.metrics.read_text() == whole  # so that the next line does not join it


def test_cut_after_forgets_later_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.append_metrics(step, {"a": float(step)})
        run.write_rollouts(step, [{"step": step}])
        checkpoint(run, step)
    run.cut_after(2)
    assert [row["step"] for row in run.read_metrics()] == [1, 2]
    assert run.checkpoint_steps() == [1, 2]
    assert not run.checkpoint(3).exists()
    assert [run.rollouts(step).exists() for step in (1, 2, 3)] == [True, True, False]


def test_cut_after_an_empty_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.cut_after(0)
    assert run.read_metrics() == []


def test_description_of_the_first_steps_is_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.describe("lr: 1", {"python": "3.11"}, 0)
    run.describe("lr: 1", {"python": "3.12"}, 4)
    assert run.config.read_text() == "lr: 1"
    assert json.loads(run.environment.read_text()) == {"python": "3.12"}
    kept = tmp_path / "environment.until_000004.json"
    assert json.loads(kept.read_text()) == {"python": "3.11"}
    assert not list(tmp_path.glob("config.until*"))


def test_each_step_keeps_the_description_it_was_run_with(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)

    def kept() -> dict[str, str]:
        return {p.name: p.read_text() for p in tmp_path.glob("config*")}

    run.describe("A", {}, 0)
    run.describe("B", {}, 6)  # killed before its first step ...
    run.describe("C", {}, 6)
    assert kept() == {"config.until_000006.yaml": "A", "config.yaml": "C"}
    run.describe("D", {}, 9)
    run.describe("E", {}, 4)  # from an earlier step, which A has run
    assert kept() == {"config.until_000004.yaml": "A", "config.yaml": "E"}
    run.describe("F", {}, 5)
    assert kept() == {
        "config.until_000004.yaml": "A", "config.until_000005.yaml": "E", "config.yaml": "F",
    }  # fmt: skip


def test_cut_off_while_cutting_no_checkpoint_lacks_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    for moment in range(6):
        run = RunFolder(tmp_path / str(moment))
        for step in (1, 2, 3, 4):
            run.append_metrics(step, {"a": float(step)})
            run.write_rollouts(step, [{"step": step}])
            checkpoint(run, step)
        left = [moment]

        def killing(function: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return function(*args)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "discard", killing(run_folder.discard))
            patch.setattr(Path, "unlink", killing(Path.unlink))
            patch.setattr(run_folder, "write_atomically", killing(run_folder.write_atomically))
            if moment < 5:
                with pytest.raises(Killed):
                    run.cut_after(2)
            else:
                run.cut_after(2)
        last = run.checkpoint_steps()[-1]
        assert [row["step"] for row in run.read_metrics()][:last] == list(range(1, last + 1))
        if last > 2:
            assert all(run.rollouts(step).exists() for step in range(1, last + 1))
        run.cut_after(2)
        assert [row["step"] for row in run.read_metrics()] == [1, 2]


def test_alarms_stand_in_a_file_and_are_cut_back_with_their_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_alarms() == []
    for step in (3, 5):
        run.append_metrics(step, {})
        alarm = Alarm(step, "gap", "hacking/gap", 0.4, 0.3, "the gap is 0.40", "stop")
        path = run.append_alarm(alarm, [{"completion": "½"}, {"completion": "b"}])
        assert path.read_text(encoding="utf-8").splitlines() == [
            '{"completion": "½"}', '{"completion": "b"}'
        ]  # fmt: skip
    assert run.read_alarms()[0] == {
        "step": 3, "name": "gap", "key": "hacking/gap", "value": 0.4, "threshold": 0.3,
        "message": "the gap is 0.40", "action": "stop", "rollouts": "alarms/000003_gap.jsonl",
    }  # fmt: skip
    run.cut_after(4)
    assert [row["step"] for row in run.read_alarms()] == [3]
    assert run.worst_rollouts(3, "gap").exists()
    assert not run.worst_rollouts(5, "gap").exists()


def test_rollouts_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    rows = [{"text": "½ \ud800"}, {"text": "b"}]
    run.write_rollouts(12, rows)
    data = run.rollouts(12).read_bytes()
    assert data[4:8] == bytes(4)  # gzip's field for the time of writing
    lines = gzip.decompress(data).decode("utf-8", "surrogatepass").splitlines()
    assert [json.loads(line) for line in lines] == rows
    run.write_rollouts(12, rows)
    assert run.rollouts(12).read_bytes() == data
    assert run.rollouts(12).name == "000012.jsonl.gz"


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (10, 9, 100):
        checkpoint(run, step)
    checkpoint(run, 200, whole=False)
    (run.checkpoints / "notes").mkdir()
    (run.checkpoints / "notes" / "trainer.pt").touch()
    assert run.checkpoint_steps() == [9, 10, 100]


def test_writing_atomically_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for data in (b"first", b"x"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs; the newest has no whole checkpoint."""
    for name, steps in (("2026-01", (5,)), ("2026-02", (3, 12)), ("2026-03", ())):
        for step in steps:
            checkpoint(RunFolder(tmp_path / name), step)
        (tmp_path / name).mkdir(exist_ok=True)
    checkpoint(RunFolder(tmp_path / "2026-03"), 7, whole=False)
    return tmp_path


def test_last_is_the_newest_run_with_a_checkpoint(runs: Path) -> None:
    assert find_checkpoint("last", runs, None) == (runs / "2026-02", 12)
    assert find_checkpoint("last", runs, runs / "2026-01") == (runs / "2026-01", 5)


def test_last_goes_by_time_not_by_name(runs: Path) -> None:
    checkpoint(RunFolder(runs / "mine"), 2)
    for age, run, step in ((30, "mine", 2), (20, "2026-02", 12), (10, "2026-01", 5)):
        saved = RunFolder(runs / run).checkpoint(step) / "trainer.pt"
        os.utime(saved, (1e9 - age, 1e9 - age))
    assert find_checkpoint("last", runs, None) == (runs / "2026-01", 5)


def test_a_folder_of_another_name_is_no_checkpoint(runs: Path) -> None:
    best = runs / "2026-02" / "checkpoints" / "best"
    best.mkdir()
    (best / "trainer.pt").touch()
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        find_checkpoint(str(best), runs, None)


def test_a_run_folder_or_one_of_its_checkpoints(runs: Path) -> None:
    run = runs / "2026-02"
    assert find_checkpoint(str(run), runs, None) == (run, 12)
    step = run / "checkpoints" / "000003"
    assert find_checkpoint(str(step), runs, None) == (run, 3)
    assert find_checkpoint(str(step / "trainer.pt"), runs, None) == (run, 3)


@pytest.mark.parametrize("where", ["2026-03", "nowhere", "2026-03/checkpoints/000007"])
def test_no_checkpoint_there(runs: Path, where: str) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        find_checkpoint(str(runs / where), runs, None)


def test_nothing_to_go_on_with(runs: Path) -> None:
    with pytest.raises(CheckpointError, match="ckpt_path=last: no checkpoint under"):
        find_checkpoint("last", runs, runs / "2026-03")
    with pytest.raises(CheckpointError, match="ckpt_path=last: no checkpoint under"):
        find_checkpoint("last", runs / "nowhere", None)
