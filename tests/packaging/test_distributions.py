"""What users install: configurations inside, commands that work from any folder, light imports."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The embedded task with everything as small as it runs; the models know nothing afterwards.
TINY = (
    "debug=default",
    "quiet=true",
    "data.train.size=200",
    "data.val.arithmetic.size=8",
    "data.test=null",
    "data.problems_per_step=4",
    "group_size=4",
    "warm_start.steps=60",
    "warm_start.batch_size=32",
    "warm_start.model.hidden_size=48",
    "annotation.num_problems=32",
    "reward_training.steps=5",
    "paths.cache_dir=stages",
    "paths.run_dir=run",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that is built from the sdist."""
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
    return wheel


@pytest.fixture(scope="module")
def unpacked(wheel):
    """What is in the wheel."""
    folder = wheel.parent / "wheel"
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


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


def test_every_command_says_what_it_takes(unpacked, tmp_path):
    (listed,) = unpacked.glob("*.dist-info/entry_points.txt")
    commands = configparser.ConfigParser()
    commands.read(listed)
    modules = {name: target.split(":")[0] for name, target in commands["console_scripts"].items()}
    assert "cooper-report" in modules
    for name, module in modules.items():
        told = run(unpacked, tmp_path, "-m", module, "--help")
        assert told.returncode == 0, told.stderr
        assert name in told.stdout


def test_verifiers_load_neither_torch_nor_lightning_nor_hydra(unpacked, tmp_path):
    code = (
        "import sys\n"
        "from cooper.verifiers import MathVerifier\n"
        "from cooper.types import Verdict\n"
        "heavy = {'torch', 'lightning', 'hydra', 'omegaconf', 'transformers'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    assert run(unpacked, tmp_path, "-c", code).stdout.strip() == "[]"


@pytest.mark.slow
def test_wheel_in_an_empty_environment_trains_from_an_empty_folder(wheel, tmp_path):
    """Nothing but pip, the wheel and the constraints: the dependencies named are all it needs."""
    folder = tmp_path / "work"
    folder.mkdir()
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def done(*command):
        ran = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    done(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python, train = str(programs / "python"), str(programs / "cooper-train")
    done(python, "-m", "pip", "install", "-c", str(ROOT / "constraints.txt"), str(wheel))
    done(python, "-m", "pip", "check")
    assert "reward: cooper, hybrid, rule, static" in done(train, "--help")
    assert list(folder.iterdir()) == []

    done(train, *TINY)
    assert {path.name for path in folder.iterdir()} == {"run", "stages"}
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 2)
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "policy = AutoModelForCausalLM.from_pretrained('run/policy')\n"
        "ids = AutoTokenizer.from_pretrained('run/policy')('3*4=', return_tensors='pt')\n"
        "print(policy.generate(**ids, max_new_tokens=2, min_new_tokens=2).shape[1]\n"
        "      - ids['input_ids'].shape[1])\n"
    )
    assert done(python, "-c", code).split()[-1] == "2"
