"""One clear line instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from cooper.errors import CooperError

FULL = "HYDRA_FULL_ERROR"


def guarded(program: str, main: Callable[[], int | None]) -> int:
    """Run a program; say what the user can mend in one line.

    Args:
        program: name for the message.
        main: gives the exit code; None is 0.

    Returns:
        the exit code: 2 for errors of the user's, 130 for Ctrl-C.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from cooper.config.validate import one_line

    if os.environ.get(FULL) == "1":
        return main() or 0
    # Hydra prints its own multi-line form and exits, unless it is asked to raise.
    os.environ[FULL] = "1"
    try:
        return main() or 0
    except (CooperError, HydraException, OmegaConfBaseException) as error:
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    finally:
        os.environ.pop(FULL, None)
