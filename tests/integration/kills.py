"""Kill the real command, resume it, and compare what it leaves with the uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from small_runs import SMALL, metrics_of, rollouts_of

STEPS = 6
WAIT = 300  # seconds; a generous bound against hanging, nothing is timed
TIME_OUTS = ("out of CPU time", "out of wall-clock time")

# What a user may bring along: a verifier whose every comparison goes through the worker processes,
# and a reward that draws from all global generators and has a state of its own. The Killer counts
# what is done to files below the run's and the cache's folders, by Python's audit events, and
# kills just before a given one.
PARTS = """
import os, random, signal, sys
import lightning as L, numpy as np, torch
import cooper.verifiers.math as maths
from cooper.rewards import HybridReward, Rewards

maths.compare_quickly = lambda *_: None

class Moody(HybridReward):
    trains_model = True
    mood = 0.0
    def __call__(self, verdicts, scores, problem_of):
        found = super().__call__(verdicts, scores, problem_of)
        self.mood = 0.5 * self.mood + float(found.values.mean())
        noise = random.random() + np.random.rand() + torch.rand(len(found.values)) + self.mood
        return Rewards(found.values + 0.05 * noise, found.keep)
    def state_dict(self):
        return {"mood": self.mood}
    def load_state_dict(self, state):
        self.mood = state["mood"]

EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")

class Killer(L.Callback):
    def __init__(self, log, at=0, group=True):  # Lightning sets a `log` of its own
        self.file, self.at, self.count, self.group = log, at, 0, group
        self.events = []
        sys.addaudithook(self.hook)
    def hook(self, event, args):
        if event == "open":
            path, mode, flags = args
            if not (isinstance(mode, str) and set(mode) & set("wa")):
                return
        elif event in EVENTS:
            path = args[0]
        else:
            return
        path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if "run/" not in path and not path.endswith("run"):
            return
        self.count += 1
        if not self.at:
            self.events.append(f"{event} {path}")
        if self.count == self.at:
            fd = os.open(self.file, os.O_WRONLY | os.O_CREAT)
            os.write(fd, f"before {event} {path}".encode())
            os.close(fd)
            if self.group:
                os.killpg(0, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    def on_train_batch_end(self, trainer, module, *_):
        # Proof for the test that there are workers to leave behind.
        open(self.file + ".workers", "w").write(str(len(module.verifier._pool._living)))
    def teardown(self, trainer, module, stage):
        import atexit
        atexit.register(lambda: open(self.file + ".events", "w").write("\\n".join(self.events)))
"""


@dataclass
class Ending:
    """One process and how it ended."""

    killed: bool
    seconds: float
    of_run: float  # seconds since the stages
    doing: str
    resumed: int  # step; 0: started anew
    how: str


@dataclass
class Victim:
    """One run in a folder of its own, killed and resumed until it is done."""

    home: Path
    cache: Path
    more: tuple[str, ...] = ()
    endings: list[Ending] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "kill_parts.py").write_text(PARTS)

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def log(self) -> Path:
        return self.home / "killer.log"

    def start(self, at: int = 0, group: bool = True) -> subprocess.Popen:
        """Start the run, or go on with it; `at`: kill before that file event."""
        self.log.unlink(missing_ok=True)
        resume = any((self.run / "checkpoints").glob("[0-9]*"))
        if not resume and self.run.exists():
            subprocess.run(["rm", "-r", str(self.run)], check=True)  # killed before there was one
        arguments = [
            *SMALL, f"trainer.max_steps={STEPS}", "checkpoints.every=1", "rollouts.keep=-1",
            "reward=hybrid", "reward._target_=kill_parts.Moody", "verifier=math",
            "evaluation.every=2", "paths.run_dir=run", f"paths.cache_dir={self.cache}", *self.more,
            f"+callbacks.killer={{_target_: kill_parts.Killer, log: {self.log}, at: {at}, "
            f"group: {str(group).lower()}}}",
        ]  # fmt: skip
        if resume:
            arguments.append("ckpt_path=last")
        return subprocess.Popen(
            [sys.executable, "-m", "cooper.cli.train", *arguments],
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def go(
        self,
        at: int = 0,
        after: float | None = None,
        since: str = "run folder:",
        group: bool = True,
    ) -> Ending:
        """Let one process live, killed before a file event or some seconds after a line."""
        steps = [int(path.name) for path in (self.run / "checkpoints").glob("[0-9]*")]
        process = self.start(at, group)
        began = opened = time.monotonic()
        lines: list[str] = []
        timer: list[threading.Timer] = []

        def shoot() -> None:
            if process.poll() is None:
                if group:
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()

        errors: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        stderr = process.stderr
        reader = threading.Thread(target=lambda: errors.append(stderr.read()))
        reader.start()
        if after is not None and not since:
            timer.append(threading.Timer(after, shoot))
            timer[0].start()
        for line in process.stdout:
            lines.append(line)
            if line.startswith("run folder:"):
                opened = time.monotonic()
            if after is not None and since and line.startswith(since) and not timer:
                timer.append(threading.Timer(after, shoot))
                timer[0].start()
        code = process.wait(timeout=WAIT)
        seconds = time.monotonic() - began
        for one in timer:
            one.cancel()
        reader.join(timeout=WAIT)
        assert_all_gone(process.pid)
        assert code in (0, -signal.SIGKILL), (code, "".join(errors))
        if found := re.search(r"resuming after step (\d+)", "".join(lines)):
            assert int(found[1]) == max(steps)
        how = f"before file event {at}" if at else f"{after:.2f} s" if after is not None else ""
        ending = Ending(
            killed=code != 0,
            seconds=seconds,
            of_run=time.monotonic() - opened,
            doing=self.doing(lines) if code else "done",
            resumed=max(steps, default=0),
            how=f"{how}{'' if group else ', main process only'}",
        )
        self.endings.append(ending)
        return ending

    def finish(self) -> None:
        """Go on to the end."""
        assert not self.go().killed

    def summary(self) -> dict:
        """How the run ended, as it says."""
        return json.loads((self.run / "summary.json").read_text())

    def doing(self, lines: list[str]) -> str:
        """What a killed process was at, from what it left."""
        if self.log.is_file():
            where = self.log.read_text().replace(str(self.home) + "/", "")
            return re.sub(r"\.\d+\.gone", ".PID.gone", where)
        half = [
            path.name
            for folder in (self.run, self.run / "checkpoints", self.run / "rollouts")
            for path in folder.glob(".*")
        ]
        if half:
            return f"inside {', '.join(sorted(half))}"
        if not any("run folder" in line for line in lines):
            built = sum(": built" in line or "from the cache" in line for line in lines)
            return f"stage {built + 1} of 3, or loading"
        rows = (self.run / "metrics.jsonl").read_text().splitlines() if self.run.exists() else []
        done = len(rows) - 1
        return f"after step {done}" if done >= 0 else "evaluation at the start"


def assert_all_gone(session: int) -> None:
    """No process of the session is left; workers of a killed parent have a moment to notice."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = subprocess.run(
            ["ps", "-o", "pid=,stat=,args=", "-s", str(session)], capture_output=True, text=True
        ).stdout
        # An orphan that init has not reaped yet is no living process.
        living = [line for line in found.splitlines() if " Z" not in line[:20]]
        if not living:
            return
        time.sleep(0.05)
    raise AssertionError(f"left running: {living}")


def assert_same(run: Path, whole: Path) -> None:
    """Weights, figures and rollouts are those of the other run, to the byte."""
    for model in ("policy", "reward_model"):
        files = sorted(path.name for path in (whole / model).iterdir())
        assert sorted(path.name for path in (run / model).iterdir()) == files
        for name in files:
            assert (run / model / name).read_bytes() == (whole / model / name).read_bytes(), name
    assert metrics_of(run) == metrics_of(whole)
    names = [f"{step:06d}.jsonl.gz" for step in range(1, STEPS + 1)]
    for folder in (run, whole):
        assert sorted(path.name for path in (folder / "rollouts").iterdir()) == names
    for name in names:
        assert (run / "rollouts" / name).read_bytes() == (whole / "rollouts" / name).read_bytes()
    for folder in (run, run / "checkpoints"):
        assert not list(folder.glob(".*")), "leftovers"
    assert len(list((run / "checkpoints").iterdir())) == 1


def verdicts(run: Path) -> tuple[int, int]:
    """All verdicts of a run's rollouts, and how many are time-outs."""
    rows = [row for step in range(1, STEPS + 1) for row in rollouts_of(run, step)]
    return len(rows), sum(row["reason"] in TIME_OUTS for row in rows)


@dataclass
class Whole:
    """The run to compare with."""

    victim: Victim
    events: list[str]  # all that it did to files
    seconds: float  # from the opening of its folder to its end


def uninterrupted(home: Path, cache: Path) -> Whole:
    """Run once without a kill."""
    victim = Victim(home / "whole", cache)
    ending = victim.go()
    assert not ending.killed
    return Whole(victim, Path(f"{victim.log}.events").read_text().splitlines(), ending.of_run)


def random_kill(victim: Victim, whole: Whole, seed: int, kind: str, group: bool = True) -> None:
    """Kill a process of the victim's at a moment drawn by the seed.

    Args:
        victim: started anew or resumed.
        whole: what it would do.
        seed: of the moment.
        kind: "file event": before any of its file events; "save": before one inside a save or the
            removal of the checkpoint before it; "seconds": at any time of its RL; "first stage",
            "later stages": at any time of those.
        group: kill its workers too, not the main process alone.
    """
    rng = random.Random(seed)
    left = list(enumerate(whole.events, start=1))
    steps = [int(path.name) for path in (victim.run / "checkpoints").glob("[0-9]*")]
    if steps:  # what was done up to there is not done again, so its events come earlier
        done = [k for k, event in left if f"checkpoints/{max(steps):06d}" in event]
        left = [(k - done[0], event) for k, event in left if k > done[0]]
    if kind == "save":
        left = [(k, event) for k, event in left if "/checkpoints/" in event]
    if kind in ("file event", "save"):
        # A resumed process does some more at its start, so there are always enough events.
        ending = victim.go(at=rng.choice(left)[0], group=group)
    elif kind == "seconds":
        share = (STEPS - max(steps, default=0)) / STEPS
        ending = victim.go(after=rng.uniform(0, 0.8 * share * whole.seconds), group=group)
    elif kind == "first stage":
        ending = victim.go(after=rng.uniform(6, 14), since="", group=group)
    else:
        ending = victim.go(after=rng.uniform(0, 5), since="warm_start:", group=group)
    assert ending.killed, ending


def write_log(path: Path, victims: list[Victim], counts: list[tuple[int, int]], seed: int) -> None:
    """Write the table of all kills, as experiments/resume/README.md has it."""
    lines = [
        "| kill | run | killed | s | what was going on | went on after step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    number = 0
    for index, victim in enumerate(victims):
        for one, following in zip(victim.endings, victim.endings[1:], strict=False):
            number += 1
            lines.append(
                f"| {number} | {index} | {one.how} | {one.seconds:.1f} | {one.doing} | "
                f"{following.resumed or 'started anew'} |"
            )
    total, late = sum(n for n, _ in counts), sum(n for _, n in counts)
    lines += [
        "",
        f"Seed {seed}: {number} kills in {len(victims)} runs of {STEPS} steps. Weights, figures "
        f"and rollouts of all runs are those of the uninterrupted one. Verdicts: {total}, of them "
        f"time-outs: {late}.",
    ]
    path.write_text("\n".join(lines) + "\n")
