"""Opening files that a user, or a stranger, names: only regular ones, looked at once they are open.

Notable: what a path names may change between a look and an open, so the open file is what is
looked at. A pipe is not waited for, and a device such as /dev/zero is never read.
"""

import errno
import io
import os
import stat
from pathlib import Path

from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: Path) -> io.BufferedReader:
    """Open a regular file for reading bytes.

    Raises `OSError` for what cannot be opened, is a folder, or is no regular file; its `strerror`
    says which.
    """
    return os.fdopen(_open(path)[0], "rb")


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file, as many as it had when it was opened; fewer if it was cut since.

    Raises `OSError` as `open_file`, and with `errno.EFBIG` for more than `most` bytes, before
    memory is taken for them.
    """
    fd, size = _open(path)
    try:
        if size > most:
            raise OSError(errno.EFBIG, f"has {size} bytes, more than {most}", str(path))
        data = os.read(fd, size)
        if len(data) == size:
            return data
        parts, left = [data], size - len(data)
        while left and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def _open(path: Path) -> tuple[int, int]:
    """A descriptor of a regular file, and its size in bytes."""
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return fd, status.st_size
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    except BaseException:
        os.close(fd)
        raise


def read_or_raise(
    path: Path, limit: int, kind: type[VqtrtError], *, missing: str, large: str
) -> bytes:
    """`read_file`, with errors of a kind: `missing` for no such file, `large` beyond the limit."""
    try:
        return read_file(path, limit)
    except FileNotFoundError:
        raise kind(missing) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise kind(large) from None
        raise kind(f"{printable(path)}: cannot be read ({error.strerror})") from error
