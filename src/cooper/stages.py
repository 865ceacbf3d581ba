"""Stages before the RL run, each cached by the content of its settings."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from cooper.errors import ConfigError, CooperError
from cooper.files import claim, publish, remove_leftovers, write_failure

_SETTINGS = "settings.json"
_BUILDING = ".building"
_DEAD_SECONDS = 3600.0
# What the stages are made of. A changed line there may change what a stage gives.
_SOURCES = (
    "annotation/hybrid.py", "data", "fitting.py", "functional", "models", "optim.py",
    "reward_training.py", "rng.py", "samplers", "steps.py", "strategies/engine.py", "updates.py",
    "verifiers", "warm_start.py",
)  # fmt: skip


@functools.cache
def source_digest() -> str:
    """Digest of the library's own code behind the stages."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for name in _SOURCES:
        files = [root / name] if name.endswith(".py") else sorted((root / name).rglob("*.py"))
        for file in files:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_dead(parent: Path) -> None:
    """Remove what killed processes left of stages; one that is being built is locked."""
    remove_leftovers(parent, older_than=_DEAD_SECONDS)
    for building in parent.glob(f".*{_BUILDING}"):
        with contextlib.suppress(OSError):
            # The age covers the moment between making and locking, and disks without locks.
            if time.time() - building.stat().st_mtime < _DEAD_SECONDS:
                continue
            held = claim(building)
            if held is not None:
                shutil.rmtree(building, ignore_errors=True)
                os.close(held)


class StageCache:
    """Folders named by a digest of what decides their content.

    A stage is built in a temporary folder and renamed when it is whole, so that an interrupted
    stage leaves nothing that looks finished.

    Args:
        root: folder of all stages.
        enabled: false builds every stage anew (and still keeps it).
        say: where "built" and "from cache" are said.
    """

    def __init__(
        self, root: str | Path, enabled: bool = True, say: Callable[[str], None] = print
    ) -> None:
        self.root = Path(root).expanduser()
        self.enabled = enabled
        self.say = say

    def folder(
        self, stage: str, settings: Mapping[str, Any], build: Callable[[Path], None]
    ) -> Path:
        """Give the folder of a stage, building it if it is not there.

        Args:
            stage: name of the stage.
            settings: everything that decides the content: plain values, upstream folders' names
                among them. The versions of torch and transformers and a digest of the stages'
                own code are added, since they give other weights too.
            build: fills the folder it is given.

        Raises:
            ConfigError: the folder cannot be made.
        """
        content = {
            "stage": stage,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "code": source_digest(),
            **settings,
        }
        text = json.dumps(content, sort_keys=True, indent=1, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder = self.root / stage / digest
        if self.enabled and (folder / _SETTINGS).is_file():
            self.say(f"{stage}: unchanged settings, taken from the cache ({folder})")
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_dead(folder.parent)
            building = Path(tempfile.mkdtemp(prefix=".", suffix=_BUILDING, dir=folder.parent))
            held = claim(building)
        except OSError as error:
            raise ConfigError(
                f"paths.cache_dir={self.root}: cannot be written ({error.strerror}); give another "
                "folder for the stages before RL"
            ) from error
        try:
            build(building)
            (building / _SETTINGS).write_text(text)
            building.chmod(0o777 & ~_umask())  # mkdtemp's folders are the owner's alone
            publish(building, folder)
        except Exception as error:
            why = write_failure(error, full_disk=True)
            if why is not None and not isinstance(error, CooperError):
                raise ConfigError(
                    f"{folder}: the stage cannot be written ({why}); make room, or give another "
                    "paths.cache_dir"
                ) from error
            raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
            if held is not None:
                os.close(held)
        self.say(f"{stage}: built, cached in {folder}")
        return folder
