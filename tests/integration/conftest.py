"""Runs of the real command, in this process and small enough to take seconds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from small_runs import SMALL

from cooper.cli.train import main


@dataclass
class Result:
    """What one command did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def stage_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of the stages for the whole session."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys, stage_cache):
    """``cli("reward=rule")``: the embedded task, small; ``cli(..., small=False)``: as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # main() adds to it

    def call(*overrides: str, small: bool = True) -> Result:
        # Hydra takes its flags in front of the overrides.
        flags = [o for o in overrides if o.startswith("-")]
        rest = [o for o in overrides if not o.startswith("-")]
        small_ones = SMALL if small else ()
        given = [*flags, *small_ones, f"paths.cache_dir={stage_cache}", *rest]
        monkeypatch.setattr(sys, "argv", ["cooper-train", *given])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, captured.out, captured.err)

    return call
