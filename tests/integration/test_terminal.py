"""A run in a real pseudo terminal, in a pipe, and with ``quiet``."""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import subprocess
import sys
import time

import pytest
from small_runs import SMALL

LONG = 300  # seconds; a generous bound against hanging, nothing is timed
LOUD = [option for option in SMALL if option != "quiet=true"]
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A process in a pseudo terminal of 80 x 24."""

    def __init__(self, arguments, folder, stage_cache, **environment: str) -> None:
        fcntl, pty, termios = map(__import__, ("fcntl", "pty", "termios"))
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        unset = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_INTERACTIVE")
        inherited = {k: v for k, v in os.environ.items() if k not in unset}
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "cooper.cli.train", *arguments,
                f"paths.cache_dir={stage_cache}",
            ],
            cwd=folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**inherited, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", **environment},
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def read(self, until: str | None = None) -> str:
        """Read until something has been written, or to the end."""
        end = time.monotonic() + LONG
        while time.monotonic() < end and (until is None or until not in self.text):
            if select.select([self.master], [], [], 1.0)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:  # Linux: nobody holds the other end any more
                    break
                self.text += data.decode("utf-8", "replace")
            elif self.process.poll() is not None:
                break
        return self.text

    def end(self) -> int:
        self.read()
        code = self.process.wait(timeout=LONG)
        os.close(self.master)
        return code


def seen(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")


pytestmark = pytest.mark.skipif(os.name != "posix", reason="pseudo terminals exist on POSIX alone")


def test_terminal_shows_the_run_and_is_given_back(tmp_path, stage_cache):
    terminal = Terminal(
        [*LOUD, "paths.run_dir=r", "evaluation.every=2", "monitor.smooth=2",
         "monitor.alarms.auroc=1"],
        tmp_path, stage_cache,
    )  # fmt: skip
    assert terminal.end() == 0, terminal.text
    run = terminal.text[terminal.text.index("run folder: ") :]  # the stages before have bars
    last = seen(run[run.rindex("RL (embedded_task)") :])
    for part in ("3/3 steps", "tokens/s", "reward", "verified", "AUROC", "avg@2",
                 "ALARM step", "alarms/00000", "sample of step", "completion"):  # fmt: skip
        assert part in last, part
    assert "ALARM at step" in seen(run)
    assert run.count(HIDE) == 1  # one display, the start's evaluation included
    assert run.rindex(SHOW) > run.rindex(HIDE)
    assert "evaluation, start" in seen(run)
    # The summary comes below.
    assert last.index("run folder") > last.index("3/3 steps")


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_gives_the_terminal_back(tmp_path, stage_cache, presses):
    many = [option for option in LOUD if not option.startswith("trainer.max_steps")]
    terminal = Terminal(
        [*many, "trainer.max_steps=5000", "paths.run_dir=r", "reward=rule"], tmp_path, stage_cache
    )
    terminal.read(until="2/5000 steps")
    for _ in range(presses):
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.read(until="finishing this step")
    assert terminal.end() == 130, terminal.text
    text = terminal.text
    assert text.rindex(SHOW) > text.rindex(HIDE)
    after = seen(text[text.rindex(HIDE) :])
    assert "Ctrl-C: finishing this step" in after
    assert "Traceback" not in after
    assert "AUROC" not in after  # reward=rule has no reward model
    assert re.search(r"RL \(embedded_task\).*\n.*/5000 steps", after)


def test_dumb_terminal_gets_lines(tmp_path, stage_cache):
    terminal = Terminal([*LOUD, "paths.run_dir=r"], tmp_path, stage_cache, TERM="dumb")
    assert terminal.end() == 0, terminal.text
    assert "\x1b" not in terminal.text
    assert "RL (embedded_task): 3/3 steps, " in terminal.text


def test_lines_in_a_pipe(cli):
    loud = ["quiet=false", "paths.run_dir=r", "evaluation.every=2", "monitor.smooth=2",
            "monitor.alarms.auroc=1", "monitor.alarms.gap=null"]  # fmt: skip
    result = cli(*loud)
    assert result.code == 0, result.err
    lines = [x for x in result.out.splitlines() if x.startswith("RL (embedded_task): ")]
    lines = [line.removeprefix("RL (embedded_task): ") for line in lines]
    assert lines[0] == "0/3 steps"
    evaluations = [line for line in lines if line.startswith("evaluation at step ")]
    assert [line[19] for line in evaluations] == ["0", "2", "3"]
    assert "(start 0." in evaluations[1]
    assert "(start" not in evaluations[0]
    alarms = [line for line in lines if line.startswith("ALARM at step ")]
    assert alarms
    assert all("auroc: the reward model's AUROC" in line for line in alarms)
    figure = r"-?\d+\.\d\d"
    assert re.fullmatch(
        rf"3/3 steps, \d+\.\d (s/step|step/s), 0 s left, \d+ tokens/s, reward {figure}, "
        rf"verified {figure}, gap [+-]\d\.\d\d",
        lines[-1],
    )
    assert "AUROC" not in result.err  # the display has said it
    resumed = cli(*loud, "trainer.max_steps=4", "ckpt_path=last")
    assert resumed.code == 0, resumed.err
    assert "RL (embedded_task): from step 3 of 4\n" in resumed.out
    assert "evaluation at step 4: arithmetic avg@2 0." in resumed.out
    assert "evaluation at step 0" not in resumed.out
    assert "(start 0." in resumed.out


def test_quiet_shows_no_progress_and_no_alarms(cli, tmp_path):
    result = cli("paths.run_dir=r", "monitor.smooth=2", "monitor.alarms.auroc=1")
    assert result.code == 0, result.err
    assert "RL (" not in result.out
    assert "ALARM" not in result.out
    assert "AUROC" not in result.err
    assert (tmp_path / "r" / "alarms.jsonl").read_text().count("\n") >= 1
