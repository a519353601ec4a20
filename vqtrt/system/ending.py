"""How this process ends: at once, if a library would keep it from its end, or crash there."""

import os
import sys
from typing import NoReturn


class _State:
    """Of this process."""

    at_once = False


def end_at_once() -> None:
    """Let `end` skip what Python and libraries do at the end of a process."""
    _State.at_once = True


def end(status: int | str | None) -> NoReturn:
    """End the process with an exit status, as `sys.exit`."""
    if _State.at_once and not isinstance(status, str):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status)
