"""The runtime cache of TensorRT for RTX: kernels that were compiled where a plan ran, kept.

The file is the SHA-256 of what follows it, then that. It is read and written under a lock, and
replaced whole, so that processes that share a bundle do not see each other's half a file. It is a
cache: what is damaged counts as missing, and a folder that cannot be written to keeps none.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DIGEST = 32


def read_cache(path: Path) -> bytes | None:
    """What was kept; None where there is nothing whole."""
    try:
        with _locked(path, fcntl.LOCK_SH):
            content = path.read_bytes()
    except OSError:
        return None
    digest, kept = content[:_DIGEST], content[_DIGEST:]
    return kept if kept and hashlib.sha256(kept).digest() == digest else None


def write_cache(path: Path, kept: bytes) -> bool:
    """Keep it; whether that could be done."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with _locked(path, fcntl.LOCK_EX):
            partial.write_bytes(hashlib.sha256(kept).digest() + kept)
            partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        return False
    return True


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Hold the lock beside a file. Where no lock file can be made, reading goes on without one."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        if how == fcntl.LOCK_EX:
            raise
        yield
        return
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)
