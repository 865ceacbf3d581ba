"""Killed at any moment and resumed, a run is the uninterrupted one to the byte."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from kills import Victim, assert_same, random_kill, uninterrupted, verdicts, write_log

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="reads /proc to see that no process is left; only Linux has it"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, stage_cache):
    return uninterrupted(tmp_path_factory.mktemp("whole"), stage_cache)


def test_three_random_kills(tmp_path, stage_cache, whole):
    """Two anywhere, the second one of the main process only, and one inside a save."""
    victim = Victim(tmp_path / "v", stage_cache)
    seed = int(os.environ.get("COOPER_KILL_SEED", "0"))
    random_kill(victim, whole, seed, "file event")
    random_kill(victim, whole, seed + 1, "seconds", group=False)
    random_kill(victim, whole, seed + 2, "save")
    victim.finish()
    assert [ending.killed for ending in victim.endings] == [True, True, True, False]
    assert int(Path(f"{whole.victim.log}.workers").read_text()) > 0  # there was somebody to orphan
    assert_same(victim.run, whole.victim.run)
    count, late = verdicts(victim.run)
    assert (count, late) == (144, 0)


KINDS = ("file event", "seconds", "save", "file event", "save", "seconds")
STAGES = ("first stage", "later stages")


@pytest.mark.slow
def test_twenty_random_kills(tmp_path, stage_cache, whole):
    """Seven runs, two or three kills each; the last one with stages of its own to be killed in."""
    seed = int(os.environ.get("COOPER_KILL_SEED", "100"))
    victims, number = [], 0
    for index in range(7):
        own = index == 6
        cache = tmp_path / "cache" if own else stage_cache
        victim = Victim(tmp_path / f"v{index}", cache)
        victims.append(victim)
        kinds = STAGES if own else [KINDS[(number + k) % len(KINDS)] for k in range(3)]
        for kind in kinds:
            random_kill(victim, whole, seed + number, kind, group=number % 5 != 4)
            number += 1
        victim.finish()
        assert_same(victim.run, whole.victim.run)
    endings = [ending for victim in victims for ending in victim.endings]
    assert sum(ending.killed for ending in endings) == 20
    counts = [verdicts(victim.run) for victim in (whole.victim, *victims)]
    if log := os.environ.get("COOPER_KILL_LOG"):
        write_log(Path(log), victims, counts, seed)
    assert sum(late for _, late in counts) == 0


def test_killed_in_its_export_a_run_is_finished_on_resume(tmp_path, stage_cache, whole):
    victim = Victim(tmp_path / "v", stage_cache)
    shutil.copytree(whole.victim.run, victim.run)
    shutil.rmtree(victim.run / "policy")
    for name in ("summary.json", "figures/training_dynamics.png"):
        (victim.run / name).unlink()
    (victim.run / ".policy.part").mkdir()
    ending = victim.go()
    assert (ending.killed, ending.resumed) == (False, 6)
    assert_same(victim.run, whole.victim.run)
    assert (victim.run / "figures" / "training_dynamics.png").is_file()
    assert victim.summary()["status"] == "finished"
