"""``cooper-eval-reward``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cooper.cli.launch import launch


def main() -> None:
    """Compose the configuration and run it."""
    launch("cooper-eval-reward", "eval_reward", _job)


def _job() -> Callable[[Any], int]:
    from cooper.config.eval_reward import eval_reward

    return eval_reward


if __name__ == "__main__":
    main()
