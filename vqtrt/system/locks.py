"""Locks between processes: one output, one writer.

A lock is a `flock` of a file that is open: it goes when its process ends, however that is. Some
file systems have none (Lustre without its option, some of NFS and FUSE); work goes on there, with
a note.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqtrt.errors import VqtrtError, unwritable

SHARED, EXCLUSIVE, AT_ONCE = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_NB

_NONE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_logger = logging.getLogger("vqtrt")
_told: set[Path] = set()


def lock(fd: int, how: int, path: Path) -> None:
    """Lock the open file `fd`, which is at `path`; `BlockingIOError` if AT_ONCE it cannot be had.

    Where the file system has no locks, says so once a folder and goes on.
    """
    try:
        fcntl.flock(fd, how)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        if path.parent not in _told:
            _told.add(path.parent)
            _logger.warning(
                "%s: this file system has no locks (%s); goes on without: let no two processes "
                "write the same output",
                path.parent,
                os.strerror(error.errno),
            )


def _is_at(fd: int, path: Path) -> bool:
    """Whether `path` still names the open file `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


@contextmanager
def only_writer(path: Path, out: Path) -> Iterator[None]:
    """Be the only process that writes `out`; `path` is the lock's file, gone afterwards.

    Raises `VqtrtError` if another process has it, or `path` cannot be made.
    """
    try:
        fd = open_locked(path, out)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        # Before the lock goes: whoever opened it meanwhile sees that it is gone, and makes another.
        path.unlink(missing_ok=True)
        os.close(fd)


def open_locked(path: Path, out: Path) -> int:
    """Open a file, made if it is missing, and lock it; gives its descriptor.

    Raises `VqtrtError` if another process has it, which is then writing `out`; `OSError` if
    it cannot be opened.
    """
    while True:
        # Never through a link: the name can be foreseen by others who may write in the folder.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            lock(fd, EXCLUSIVE | AT_ONCE, path)
            # Another writer may have removed it between our open and our lock.
            if _is_at(fd, path):
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise busy(out) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def busy(out: Path) -> VqtrtError:
    """What to raise if another process has the lock."""
    return VqtrtError(f"{out}: another process is writing it; wait for it or change --out")
