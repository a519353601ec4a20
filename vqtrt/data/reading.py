"""How items of a data set are read."""

from typing import Literal

from vqtrt.system.cores import usable_cores

OnError = Literal["stop", "skip"]
"""At an item that cannot be read: stop with its error, or list it as rejected and go on."""


def default_workers() -> int:
    """Number of reading threads: one per usable core, at most 16."""
    return min(16, usable_cores())
