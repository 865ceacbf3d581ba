"""Multirun: every job of a sweep in a process and a folder of its own, one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from cooper.cli import launch
from cooper.errors import CooperError, Terminated


class ProcessLauncher(Launcher):
    """Starts the program once per job; a failed job is shown and the others still run.

    Jobs get folders ``<hydra.sweep.dir>/<number>-<what sets the job apart>``.
    """

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Hydra's hook."""
        self.config = config
        self.hydra_context = hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; see :class:`hydra.plugins.launcher.Launcher`."""
        sweep = Path(self.config.hydra.sweep.dir)
        results, rows = [], []
        # A job is named by what sets it apart from the others.
        common = [o for o in job_overrides[0] if all(o in job for job in job_overrides)]
        for index, overrides in enumerate(job_overrides, start=initial_job_idx):
            job = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            label = ",".join(o for o in overrides if o not in common) or "run"
            folder = sweep / f"{index}-{_safe(label)}"
            print(f"\njob {index + 1}/{initial_job_idx + len(job_overrides)}: {label}", flush=True)
            command = [sys.executable, "-m", launch.module(), *overrides]
            if not any(o.startswith("paths.run_dir=") for o in overrides):
                command.append(f"paths.run_dir={_quoted(str(folder))}")
            code = _wait(subprocess.Popen([*command, *_config_flags()], env=launch.environment()))
            if code in (130, 143):
                raise Terminated if code == 143 else KeyboardInterrupt
            if code:
                print(f"job {index + 1} failed with exit code {code}: {label}", file=sys.stderr)
            rows.append((label, code, folder))
            result = JobReturn(overrides=list(overrides), cfg=job)
            result.status = JobStatus.COMPLETED
            result._return_value = code
            results.append(result)
        _show(rows)
        failed = [label for label, code, _ in rows if code]
        if failed:
            raise CooperError(f"{len(failed)} of {len(rows)} jobs failed: {'; '.join(failed)}")
        return results


def _wait(process: subprocess.Popen) -> int:
    """Wait for a job's exit code. The job saves before it ends.

    Ctrl-C reaches the job by itself; SIGTERM may have been sent to this process alone.
    """
    while True:
        try:
            return process.wait()
        except Terminated:
            process.terminate()
        except KeyboardInterrupt:
            continue


def _config_flags() -> list[str]:
    """The command line's own --config-dir and --config-name, for the jobs."""
    flags, arguments = [], sys.argv[1:]
    for position, argument in enumerate(arguments):
        name = argument.split("=", 1)[0]
        if name in ("--config-dir", "-cd", "--config-name", "-cn"):
            flags.append(argument)
            if "=" not in argument and position + 1 < len(arguments):
                flags.append(arguments[position + 1])
    return flags


def _safe(label: str) -> str:
    """A folder name of a label."""
    return "".join(c if c.isalnum() or c in "=.,_-" else "_" for c in label)[:120]


def _quoted(value: str) -> str:
    """A value as Hydra's grammar takes any text."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _show(rows: list[tuple[str, int, Path]]) -> None:
    """The sweep's table, from the jobs' summaries."""
    table = Table(title="sweep")
    for column in ("job", "status", "held-out start", "end", "reward start", "end", "CPU s"):
        table.add_column(column, justify="left" if column in ("job", "status") else "right")
    for label, code, folder in rows:
        path = folder / "summary.json"
        summary = json.loads(path.read_text()) if path.is_file() else {}
        table.add_row(label, "ok" if code == 0 else f"failed ({code})", *_figures(summary))
    Console().print(table)


def _figures(summary: dict[str, Any]) -> list[str]:
    values = [v for k, v in summary.get("evaluation", {}).items() if "/avg_at_" in k]
    reward = summary.get("training", {}).get("reward/mean")
    cells: list[float | None] = [
        values[0]["start"] if values else None,
        values[0]["end"] if values else None,
        reward["start"] if reward else None,
        reward["end"] if reward else None,
    ]
    texts = ["-" if v is None else f"{v:.3f}" for v in cells]
    return [*texts, f"{summary['cpu_seconds']:.0f}" if "cpu_seconds" in summary else "-"]


ConfigStore.instance().store(
    group="hydra/launcher",
    name="cooper_process",
    node=OmegaConf.create({"_target_": "hydra_plugins.cooper_launcher.launcher.ProcessLauncher"}),
    provider="cooper",
)
