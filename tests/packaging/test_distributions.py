"""What users install: configurations inside, commands that work from any folder, light imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel that is built from the sdist, unpacked."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "wheel")
    return folder / "wheel"


def test_wheel_holds_configuration_and_types_and_nothing_else(unpacked):
    shipped = {p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")}
    found = {
        p.relative_to(unpacked / "cooper/conf") for p in (unpacked / "cooper/conf").rglob("*.yaml")
    }
    assert found == shipped
    assert (unpacked / "cooper" / "py.typed").is_file()
    tops = {p.name for p in unpacked.iterdir() if not p.name.endswith(".dist-info")}
    assert tops == {"cooper", "hydra_plugins"}


def run(unpacked, folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_command_composes_from_an_empty_folder(unpacked, tmp_path):
    where = run(unpacked, tmp_path, "-c", "import cooper; print(cooper.__file__)")
    assert where.stdout.startswith(str(unpacked))
    done = run(unpacked, tmp_path, "-m", "cooper.cli.train", "--cfg", "job", "reward=hybrid")
    assert done.returncode == 0, done.stderr
    assert "cooper.rewards.HybridReward" in done.stdout
    told = run(unpacked, tmp_path, "-m", "cooper.cli.train", "--help")
    assert told.returncode == 0
    assert "reward: cooper, hybrid, rule, static" in told.stdout
    assert list(tmp_path.iterdir()) == []


def test_verifiers_load_neither_torch_nor_lightning_nor_hydra(unpacked, tmp_path):
    code = (
        "import sys\n"
        "from cooper.verifiers import MathVerifier\n"
        "from cooper.types import Verdict\n"
        "heavy = {'torch', 'lightning', 'hydra', 'omegaconf', 'transformers'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    assert run(unpacked, tmp_path, "-c", code).stdout.strip() == "[]"
