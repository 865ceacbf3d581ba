"""Several jobs one after another in the same processes: starting those takes longer than a job."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from hydra import compose, initialize_config_module

from cooper.config.schema import register
from cooper.config.train import train
from cooper.config.train_reward import train_reward
from cooper.processes import run_in

PROGRAMS = {"train": train, "train_reward": train_reward}


def work() -> int:
    """Run the jobs; the first that fails ends it."""
    for program, overrides in json.loads(Path(sys.argv[1]).read_text()):
        register(program)
        with initialize_config_module("cooper.conf", version_base="1.3"):
            code = PROGRAMS[program](compose(program, overrides))
        if code:
            return code
    return 0


if __name__ == "__main__":
    processes, minutes = int(sys.argv[2]), 5.0
    command = [sys.executable, *sys.argv]
    alone = processes == 1
    given = (processes, 1, minutes, False, command, dict(os.environ))
    sys.exit(work() if alone else run_in(*given, work))
