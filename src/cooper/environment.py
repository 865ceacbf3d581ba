"""What a run ran on: versions, commit, command."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "cooper-rl", "torch", "lightning", "transformers", "tokenizers", "hydra-core",
    "math-verify", "peft", "torchmetrics", "numpy",
)  # fmt: skip


def package_versions() -> dict[str, str | None]:
    """Versions of what decides the numbers."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def source_commit() -> str | None:
    """The commit of the library's own checkout, with "+changes" where it is not clean."""
    here = str(Path(__file__).resolve().parent)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package inside somebody's own repository is not that repository's commit.
    if git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain") else commit


def environment() -> dict[str, Any]:
    """Everything needed to tell two machines' results apart."""
    torch = sys.modules.get("torch")  # annotating by an endpoint needs none, and loads none
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": source_commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch
        else [],
        "packages": package_versions(),
    }


def cpu_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def resident_memory() -> int:
    """Resident memory of this process, bytes: now on Linux, elsewhere its largest so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return int(peak_memory_mb() * 2**20)
    return pages * resource.getpagesize()


def peak_memory_mb() -> float:
    """Largest resident memory of this process, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
