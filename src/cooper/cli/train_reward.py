"""``cooper-train-reward``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from cooper.cli.launch import launch


def main() -> None:
    """Compose the configuration and run it."""
    given = [argument.lstrip("+").split("=")[0] for argument in sys.argv[1:]]
    if "data.train" in given and "experiment" not in given:
        # The default experiment holds the numbers of the embedded task, which are no one else's.
        sys.argv.append("experiment=none")
    launch("cooper-train-reward", "train_reward", _job)


def _job() -> Callable[[Any], int]:
    from cooper.config.train_reward import train_reward

    return train_reward


if __name__ == "__main__":
    main()
