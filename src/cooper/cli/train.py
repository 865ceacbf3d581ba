"""``cooper-train``."""

from __future__ import annotations

import os
import sys

from cooper.cli.errors import guarded


def main() -> None:
    """Compose the configuration and run it."""
    # Set before torch is loaded: the tokenizer's threads would only be warned about after forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # A console script does not see the working directory; a user's own parts live there.
    sys.path.insert(0, os.getcwd())
    sys.exit(guarded("cooper-train", run))


def run() -> int:
    """Hand over to Hydra."""
    import hydra
    from omegaconf import DictConfig

    from cooper.config.schema import register as register_schema

    register_schema()
    code = 0
    failure: Exception | None = None

    @hydra.main(version_base="1.3", config_path="pkg://cooper.conf", config_name="train")
    def entry(cfg: DictConfig) -> None:
        nonlocal code, failure
        from cooper.config.train import train

        try:
            code = train(cfg)
        except Exception as error:
            # Hydra would print a line of its own about it; it is raised again below.
            failure = error

    entry()
    if failure is not None:
        raise failure
    return code


if __name__ == "__main__":
    main()
