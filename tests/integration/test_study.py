"""The study's runner: it skips what is finished, resumes what was killed, survives failures."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from small_runs import SMALL

STUDY = Path(__file__).parents[2] / "experiments" / "reward_hacking"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """run.py and collect.py, which stand beside each other and in no package."""
    modules = {}
    for name in ("run", "collect"):
        spec = importlib.util.spec_from_file_location(name, STUDY / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        modules[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, modules[name])
        spec.loader.exec_module(modules[name])
    return modules


def test_a_failed_job_stops_nothing_and_what_is_finished_is_skipped(
    study, tmp_path, monkeypatch, capsys, stage_cache
):
    tiny = (*SMALL, "trainer.max_steps=2", f"paths.cache_dir={stage_cache}", "evaluation.every=1")
    monkeypatch.setattr(study["run"], "ARMS", {
        "static, weak": ("reward=nonsense", *tiny),
        "rule": ("reward=rule", *tiny),
    })  # fmt: skip
    runs = tmp_path / "runs"
    monkeypatch.setattr(sys, "argv", ["run.py", "--runs", str(runs), "--seeds", "7", "--jobs", "1"])
    assert study["run"].main() == 1
    out = capsys.readouterr().out
    assert "static, weak, seed 7: failed; 1/2" in out
    assert "rule, seed 7: finished; 2/2, 0 min left" in out
    assert out.splitlines()[-1].strip() == str(runs / "static-weak-7.log")
    assert "nonsense" in (runs / "static-weak-7.log").read_text()
    before = (runs / "rule-7" / "metrics.jsonl").stat().st_mtime_ns

    assert study["run"].main() == 1
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    assert (runs / "rule-7" / "metrics.jsonl").stat().st_mtime_ns == before

    # Killed after its first checkpoint: the rest is run, and nothing else.
    (runs / "rule-7" / "summary.json").unlink()
    monkeypatch.setitem(
        study["run"].ARMS, "rule", (*study["run"].ARMS["rule"], "trainer.max_steps=3")
    )
    study["run"].main()
    assert "resuming after step 2" in (runs / "rule-7.log").read_text()
    rows = [json.loads(line) for line in (runs / "rule-7" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert study["collect"].read_run(runs / "static-weak-7") == {"status": "missing", "steps": 0}


@pytest.mark.parametrize(("curve", "alarms", "expected"), [
    ([0.5, 0.9, 0.91, 0.87, 0.85], [], (20, None, 0, 5)),  # .06 below the best, seen by nothing
    ([0.5, 0.9, 0.91, 0.87, 0.85], [[3, "gap"], [12, "kl"], [18, "gap"]], (20, -8, 1, 5)),
    ([0.5, 0.9, 0.6, 0.95, 0.95], [[13, "gap"]], (10, 3, 0, 0)),
    ([0.5, 0.6, 0.7, 0.8, 0.76], [[13, "gap"], [17, "kl"]], (None, None, 2, 20)),
])  # fmt: skip
def test_delay_and_false_alarms(study, curve, alarms, expected):
    found = study["collect"].judged([0, 5, 10, 15, 20], curve, alarms, 20)
    assert (found["fall"], found["delay"], found["false"], found["quiet_steps"]) == expected
