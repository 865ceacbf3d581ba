"""``cooper-eval``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cooper.cli.launch import launch


def main() -> None:
    """Compose the configuration and run it."""
    launch("cooper-eval", "eval", _job)


def _job() -> Callable[[Any], int]:
    from cooper.config.evaluate import evaluate

    return evaluate


if __name__ == "__main__":
    main()
