"""What a job tells while it runs."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the number of items done so far, and of all."""

Note = Callable[[str], None]
"""Called with a line for the user."""

Resumed = Callable[[int], None]
"""Called with the number of items that an earlier, interrupted job had finished already."""


def ignore(done: int, total: int) -> None:
    """What a job tells by default: nothing."""
