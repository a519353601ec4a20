"""The one exception that a user is meant to read.

Every message is one line: what is wrong, with which file or value, and what to do about it.
The CLI prints it without a traceback and exits with status 1.
"""

import errno
import signal
from collections.abc import Sequence
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


class VqtrtError(Exception):
    """A mistake in the input, the settings or the environment, and how to mend it."""


class ImageError(VqtrtError):
    """One image that cannot be read; `--on-error skip` skips it."""


class AudioError(VqtrtError):
    """One recording that cannot be read; `--on-error skip` skips it."""


class Interrupted(VqtrtError):  # noqa: N818
    """A command that a signal ended; carries the notes of its work, such as how to resume."""

    def __init__(self, number: int, notes: Sequence[str] = ()) -> None:
        name = signal.Signals(number).name
        by = "" if number == signal.SIGINT else f" by {name}"
        super().__init__("; ".join([f"interrupted{by}", *notes]))
        self.number = number

    @property
    def status(self) -> int:
        """The exit status: what a shell gives for the signal."""
        return 128 + self.number


def unwritable(path: Path, error: OSError) -> VqtrtError:
    """What to raise where an output cannot be written."""
    if error.errno in _FULL:
        return VqtrtError(f"No space left on {path.parent}: make room there or change --out")
    # What stands where a folder is wanted "exists" for mkdir.
    exists = isinstance(error, FileExistsError)
    why = "a file is where a folder has to be" if exists else error.strerror or str(error)
    return VqtrtError(f"{path}: cannot be written ({why}); mend that or change --out")


def explain(error: Exception) -> str:
    """The message of an error that ends a command."""
    if isinstance(error, MemoryError):
        return "out of memory; a smaller --batch-size, or smaller images, need less"
    if not isinstance(error, OSError):
        return str(error)
    name = f"{error.filename}: " if error.filename else ""
    mend = "; make room there" if error.errno in _FULL else ""
    return f"{name}{error.strerror or error}{mend}"


def add_hint(error: BaseException, hint: str) -> None:
    """Say more at the end of an error; a note for those whose message is not ours."""
    if isinstance(error, VqtrtError):
        error.args = (f"{error}; {hint}",)
    else:
        error.add_note(hint)
