"""What the console scripts share: Hydra composes, one function runs, errors become one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from cooper.cli.errors import guarded, users_environment

_running = "train"
_IN_PROCESSES = ("train", "train_reward")  # programs that compute; cooper-plan only reads them


def module() -> str:
    """The module of the program that runs: a sweep starts it once for each job."""
    return f"cooper.cli.{_running}"


def environment() -> dict[str, str]:
    """Of the processes that the program starts: a user's own parts are found there as here."""
    return {
        **users_environment(),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def launch(program: str, config_name: str, job: Callable[[], Callable[[Any], int]]) -> None:
    """Compose a configuration, run a job on it, and end the process with its exit code.

    Args:
        program: name for messages.
        config_name: the root file in conf/, and the program's module in this package.
        job: imports and returns what runs a configuration; called after Hydra has taken
            ``--help`` and its like, which are to come at once.
    """
    global _running
    _running = config_name
    # Set before torch is loaded: the tokenizer's threads would only be warned about after forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # A console script does not see the working directory; a user's own parts live there.
    sys.path.insert(0, os.getcwd())
    sys.exit(guarded(program, lambda: _compose_and_run(config_name, job), config_name))


def _in_processes(cfg: Any, run: Callable[[Any], int]) -> int:
    """Run a configuration in as many processes as its strategy and its trainer say."""
    if _running not in _IN_PROCESSES or not cfg.get("strategy"):
        return run(cfg)
    from cooper.config.validate import require, strategy_rules
    from cooper.processes import run_in

    require(strategy_rules(cfg))  # before there are processes that would each say it
    command = [sys.executable, "-m", module(), *sys.argv[1:]]
    trainer, timeout = cfg.trainer, cfg.strategy.get("timeout", 120.0)
    return run_in(
        trainer.devices,
        trainer.num_nodes,
        timeout,
        trainer.accelerator != "cpu",
        command,
        environment(),
        lambda: run(cfg),
    )


def _compose_and_run(config_name: str, job: Callable[[], Callable[[Any], int]]) -> int:
    import hydra
    from omegaconf import DictConfig

    from cooper.config.schema import register as register_schema

    register_schema(config_name)
    code = 0
    failure: Exception | None = None

    @hydra.main(version_base="1.3", config_path="pkg://cooper.conf", config_name=config_name)
    def entry(cfg: DictConfig) -> None:
        nonlocal code, failure
        try:
            code = _in_processes(cfg, job())
        except Exception as error:
            # Hydra would print a line of its own about it; it is raised again below.
            failure = error

    entry()
    if failure is not None:
        raise failure
    return code
