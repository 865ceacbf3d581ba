"""What stands where in a run's folder."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cooper.collectives import rank
from cooper.errors import CheckpointError, DataError
from cooper.files import claim, discard, naming, remove_leftovers, sync, write_atomically
from cooper.monitoring.alarms import Alarm

_STEP = re.compile(r"\d+")


class RunFolder:
    """The files of one run; every path and every format is decided here.

    ``config.yaml``, ``environment.json``, ``data.json``, ``metrics.jsonl``,
    ``rollouts/<step>.jsonl.gz``, ``alarms.jsonl``, ``alarms/<step>_<name>.jsonl``,
    ``trace/<step>.json``, ``checkpoints/<step>/``, ``policy/``, ``reward_model/``, ``figures/``,
    ``summary.json``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, commit, machine."""
        return self.path / "environment.json"

    @property
    def data(self) -> Path:
        """Sizes of the problem sets, and what the training set shares with others and itself."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def alarms(self) -> Path:
        """One JSON object an alarm."""
        return self.path / "alarms.jsonl"

    def worst_rollouts(self, step: int, name: str) -> Path:
        """The worst rollouts of the step in which an alarm was raised."""
        return self.path / "alarms" / f"{step:06d}_{name}.jsonl"

    @property
    def summary(self) -> Path:
        """How the run ended."""
        return self.path / "summary.json"

    @property
    def figures(self) -> Path:
        """Pictures."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        """One folder a kept step."""
        return self.path / "checkpoints"

    def rollouts(self, step: int) -> Path:
        """The kept rollouts of a step."""
        return self.path / "rollouts" / f"{step:06d}.jsonl.gz"

    def trace(self, step: int) -> Path:
        """What ran while what, from after a step on."""
        return self.path / "trace" / f"{step:06d}.json"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint after a step."""
        return self.checkpoints / f"{step:06d}"

    def describe(self, config: str, machine: Mapping[str, Any], step: int) -> None:
        """Write ``config.yaml`` and ``environment.json``.

        A run that goes on after `step` with other ones keeps those of its first steps as
        ``config.until_<step>.yaml`` and ``environment.until_<step>.json``.
        """
        texts = {self.config: config, self.environment: json.dumps(machine, indent=1)}
        for path, text in texts.items():
            if path.is_file() and path.read_text(encoding="utf-8") != text:
                self._keep_description(path, step)
            write_atomically(path, text.encode())

    def _keep_description(self, path: Path, step: int) -> None:
        """Keep what the steps up to `step` were run with, under that step."""
        pattern = re.compile(rf"{path.stem}\.until_(\d+){re.escape(path.suffix)}")
        found = ((pattern.fullmatch(p.name), p) for p in self.path.glob(f"{path.stem}.until_*"))
        later = sorted((int(m[1]), p) for m, p in found if m and int(m[1]) >= step)
        # What was there first described these steps; anything later, steps now forgotten.
        source = later[0][1] if later else path
        kept = path.with_name(f"{path.stem}.until_{step:06d}{path.suffix}")
        if source != kept:
            write_atomically(kept, source.read_bytes())
        for _, other in later:
            if other != kept:
                other.unlink()

    def read_config(self) -> dict[str, Any]:
        """The resolved configuration as plain values; empty when there is none yet.

        Raises:
            DataError: the file cannot be read as one.
        """
        if not self.config.is_file():
            return {}
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            where = getattr(error, "problem_mark", None)
            line = f", line {where.line + 1}" if where else ""
            raise DataError(f"{self.config}{line}: is no YAML that can be read") from error
        if not isinstance(found, dict):
            raise DataError(f"{self.config}: holds no settings")
        return found

    def in_use(self) -> bool:
        """Whether a process is at work here; false where the file system has no locks."""
        try:
            held = claim(self.path)
        except BlockingIOError:
            return True
        if held is not None:
            os.close(held)
        return False

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a line; figures that are not finite are written as null, since JSON has no NaN."""
        row: dict[str, Any] = {"step": step}
        row.update({k: v if math.isfinite(v) else None for k, v in metrics.items()})
        self.path.mkdir(parents=True, exist_ok=True)
        with naming(self.metrics), self.metrics.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Wait until the steps' figures are on the disk, before a checkpoint counts on them."""
        written = [path for path in (self.alarms, self.metrics) if path.is_file()]
        for path in written:
            sync(path)
        if written:
            sync(self.path)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of ``metrics.jsonl``; a line cut off by a kill is left out."""
        return _whole_lines(self.metrics)

    def append_alarm(self, alarm: Alarm, worst: list[dict[str, Any]]) -> Path:
        """Add a line to ``alarms.jsonl``, after its worst rollouts have been written.

        Args:
            alarm: to write down.
            worst: rollouts as plain objects, the worst first.

        Returns:
            the file of the worst rollouts.
        """
        path = self.worst_rollouts(alarm.step, alarm.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in worst)
        write_atomically(path, text.encode("utf-8", "surrogatepass"))
        row = {**asdict(alarm), "rollouts": str(path.relative_to(self.path))}
        with naming(self.alarms), self.alarms.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        return path

    def read_alarms(self) -> list[dict[str, Any]]:
        """All whole lines of ``alarms.jsonl``: the fields of :class:`Alarm`, and ``rollouts``."""
        return _whole_lines(self.alarms)

    def read_summary(self) -> dict[str, Any]:
        """How the run last ended; empty when it never did."""
        return _object(self.summary)

    def read_environment(self) -> dict[str, Any]:
        """Versions, commit, machine; empty when there are none yet."""
        return _object(self.environment)

    def write_rollouts(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Write a step's kept rollouts, compressed; the same rows give the same bytes."""
        path = self.rollouts(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        data = gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)
        write_atomically(path, data)

    def checkpoint_steps(self) -> list[int]:
        """Steps with a whole checkpoint, ascending."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(
            int(folder.name)
            for folder in self.checkpoints.iterdir()
            if _STEP.fullmatch(folder.name) and (folder / "trainer.pt").is_file()
        )

    def cut_after(self, step: int) -> None:
        """Forget everything after a step, which is about to be run again.

        The newest checkpoint goes first and the figures last: killed in between, the last
        checkpoint that is left still has all figures before it.
        """
        self.remove_leftovers()
        for later in [s for s in reversed(self.checkpoint_steps()) if s > step]:
            discard(self.checkpoint(later))
        for path in self._step_files():
            if int(re.split("[._]", path.name)[0]) > step:
                path.unlink()
        for path in (self.alarms, self.metrics):
            if path.is_file():
                kept = [row for row in _whole_lines(path) if row["step"] <= step]
                write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half made or half removed."""
        for folder in (self.path, self.checkpoints, self.path / "rollouts", self.path / "alarms"):
            remove_leftovers(folder)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out: two in one folder would cut each other's steps away.

        Raises:
            CheckpointError: another process is at work there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            held = claim(self.path)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{self.path}: another process is at work in this run folder; wait for its end, "
                "or give another paths.run_dir"
            ) from error
        try:
            yield
        finally:
            if held is not None:
                os.close(held)

    def _step_files(self) -> Iterator[Path]:
        yield from sorted((self.path / "rollouts").glob("*.jsonl.gz"))
        yield from sorted((self.path / "alarms").glob("*.jsonl"))


class FolderBeside(RunFolder):
    """The run's folder for a process beside the first one: it reads, and writes nothing."""

    def describe(self, config: str, machine: Mapping[str, Any], step: int) -> None:
        """Nothing."""

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def append_alarm(self, alarm: Alarm, worst: list[dict[str, Any]]) -> Path:
        """Where the first process writes."""
        return self.worst_rollouts(alarm.step, alarm.name)

    def write_rollouts(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Nothing."""

    def cut_after(self, step: int) -> None:
        """Nothing."""

    def remove_leftovers(self) -> None:
        """Nothing."""

    def trace(self, step: int) -> Path:
        """One of this process's own."""
        return self.path / "trace" / f"{step:06d}_process_{rank()}.json"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """The first process has it."""
        yield


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one when there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines; one cut off by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break  # only the last line can be half-written
    return rows


def find_checkpoint(ckpt_path: str, experiment_dir: Path, run_dir: Path | None) -> tuple[Path, int]:
    """Find the run folder and the step that ``ckpt_path`` means.

    Args:
        ckpt_path: "last", a run folder, or ``<run>/checkpoints/<step>``.
        experiment_dir: where the runs of this experiment stand.
        run_dir: the run folder given by the user, if any.

    Returns:
        the run folder and the step to go on from.

    Raises:
        CheckpointError: there is none.
    """
    if ckpt_path == "last":
        found = []
        for run in [run_dir] if run_dir else sorted(experiment_dir.glob("*")):
            steps = RunFolder(run).checkpoint_steps()
            if steps:
                saved = (RunFolder(run).checkpoint(steps[-1]) / "trainer.pt").stat().st_mtime_ns
                found.append((saved, run, steps[-1]))
        if found:
            return max(found)[1:]  # saved last: a name of the user's own says nothing about age
        where = run_dir or experiment_dir
        if run_dir and RunFolder(run_dir).metrics.exists():
            raise CheckpointError(
                f"ckpt_path=last: no checkpoint under {where}, whose run ended before its first "
                "one; remove the folder and start without ckpt_path"
            )
        raise CheckpointError(
            f"ckpt_path=last: no checkpoint under {where}; start without ckpt_path, or give "
            "paths.run_dir of the run to go on with"
        )
    path = Path(ckpt_path).expanduser()
    if path.name == "trainer.pt":
        path = path.parent
    inside = path.parent.name == "checkpoints" and _STEP.fullmatch(path.name)
    if inside and (path / "trainer.pt").is_file():
        return path.parent.parent, int(path.name)
    steps = RunFolder(path).checkpoint_steps()
    if steps:
        return path, steps[-1]
    raise CheckpointError(
        f"ckpt_path={ckpt_path}: no checkpoint there; give 'last', a run folder, or one of its "
        "checkpoints/<step> folders"
    )
