"""``cooper-plan``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cooper.cli.launch import launch


def main() -> None:
    """Compose the configuration of a training and plan it."""
    launch("cooper-plan", "plan", _job)


def _job() -> Callable[[Any], int]:
    from cooper.config.plan import plan

    return plan


if __name__ == "__main__":
    main()
