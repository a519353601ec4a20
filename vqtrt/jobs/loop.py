"""The loop of every job, and what a job tells while it runs."""

from collections.abc import Callable, Generator
from contextlib import closing

from vqtrt.errors import VqtrtError

Progress = Callable[[int, int], None]
"""Called with the number of items done so far, and of all."""

Note = Callable[[str], None]
"""Called with a line for the user."""

Resumed = Callable[[int], None]
"""Called with the number of items that an earlier, interrupted job had finished already."""

Steps = Generator[int]
"""The work of a job. Each step gives the number of items done, also by earlier jobs."""


def ignore(done: int, total: int) -> None:
    """What a job tells by default: nothing."""


def run_steps(steps: Steps, total: int, progress: Progress, *, first: int = 0) -> None:
    """Run the steps of a job on `total` items, of which `first` were done before."""
    progress(first, total)
    # Closed at an error too, and not only when its traceback is gone: threads stop then.
    with closing(steps):
        for done in steps:
            progress(done, total)


def nothing_read(root: str, total: int, item: str) -> VqtrtError:
    """The error of a job none of whose items could be read; `item` is `an image`, for example."""
    return VqtrtError(
        f"{root}: none of its {total} files is {item} that can be read; check the path (without "
        "--on-error skip, the error names the first file and its fault)"
    )
