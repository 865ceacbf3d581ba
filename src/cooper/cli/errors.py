"""One clear line instead of a traceback."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from cooper.errors import CooperError, Terminated

FULL = "HYDRA_FULL_ERROR"
_asked_by_us = False


def users_environment() -> dict[str, str]:
    """The environment without what was set here."""
    return {k: v for k, v in os.environ.items() if not (_asked_by_us and k == FULL)}


_NO_KEY = re.compile(r"Could not override '([^']*)'")
_NO_OPTION = re.compile(
    r"Could not find '([^']*)/([^/']*)' Available options in '[^']*': (.*?) Config"
)
_NO_GROUP = re.compile(r"Could not override '([^']*)'\. No match in the defaults list")


def _explain(message: str, program: str, config_name: str) -> str:
    """Say Hydra's own messages in the words of this program's rule and mend."""
    if found := _NO_OPTION.search(message):
        group, option, options = found.groups()
        return f"{group}={option}: no such option; choose one of {', '.join(options.split())}"
    if found := _NO_GROUP.search(message):
        return f"{found[1]}: no such group; {program} --help lists them"
    if found := _NO_KEY.search(message):
        close = difflib.get_close_matches(found[1], _known_keys(config_name), n=1, cutoff=0.7)
        hint = f"did you mean {close[0]}? " if close else ""
        return (
            f"{found[1]}: no such key; {hint}{program} --cfg job lists all, and "
            f"+{found[1]}=VALUE gives a part a keyword that its file leaves out"
        )
    if "LexerNoViableAlt" in message or "mismatched input" in message:
        return f"{message.split(' See http')[0]}: cannot be read; write key=value, or key='a value'"
    return message


def _known_keys(config_name: str) -> list[str]:
    """Dotted names of every key of a root file with its defaults."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig

    def walk(node: DictConfig, prefix: str) -> list[str]:
        keys = []
        for name in node:
            child = node._get_node(name)
            keys.append(f"{prefix}{name}")
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                keys += walk(child, f"{prefix}{name}.")
        return keys

    GlobalHydra.instance().clear()
    with initialize_config_module("cooper.conf", version_base="1.3"):
        return walk(compose(config_name), "")


def guarded(program: str, main: Callable[[], int | None], config_name: str = "train") -> int:
    """Run a program; say what the user can mend in one line.

    Args:
        program: name for the message.
        main: gives the exit code; None is 0.
        config_name: the root file in conf/ that the program composes.

    Returns:
        the exit code: 2 for errors of the user's, 130 for Ctrl-C, 143 for SIGTERM.
    """

    def terminate(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; what follows cleans up
        raise Terminated

    before: Any = None
    if threading.current_thread() is threading.main_thread():
        # SIGTERM's default would leave half-made stages and workers behind.
        before = signal.signal(signal.SIGTERM, terminate)
    try:
        return _told(program, main, config_name)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _told(program: str, main: Callable[[], int | None], config_name: str) -> int:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from cooper.config.validate import one_line

    if os.environ.get(FULL) == "1":
        return main() or 0
    # Hydra prints its own multi-line form and exits, unless it is asked to raise.
    global _asked_by_us
    os.environ[FULL], _asked_by_us = "1", True
    try:
        return main() or 0
    except (CooperError, HydraException, OmegaConfBaseException) as error:
        print(
            f"{program}: error: {_explain(one_line(error), program, config_name)}", file=sys.stderr
        )
        return 2
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        print(f"{program}: error: a group cannot be null; give group=none", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read has closed the pipe (| head) and wants no more, from the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as a shell reports it
    except OSError as error:
        where = error.filename or "a file"
        print(f"{program}: error: {where}: {error.strerror or error}", file=sys.stderr)
        return 2
    except Terminated:
        print(f"{program}: terminated", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    finally:
        os.environ.pop(FULL, None)
        _asked_by_us = False
