"""Caches that NVIDIA's packages fill, as files: timings of a builder, kernels that a plan needs.

The file is what the package serialised, as NVIDIA's own tools read and write it. Beside it stands
`FILE.sha256`, which `sha256sum --check` reads. Both are read and written under a lock, so that
processes that share a bundle never see a partially written file. It is a cache: what is damaged
counts as missing, and a folder that cannot be written to keeps none.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vqtrt.engines.cuda import on_device
from vqtrt.engines.tensorrt.trust import forget, is_known, remember
from vqtrt.errors import VqtrtError
from vqtrt.system.atomic import write_bytes
from vqtrt.system.files import read_file
from vqtrt.system.locks import EXCLUSIVE, SHARED, lock

_MAX_BYTES = 2**33
"""As of a plan; a larger file counts as missing."""


def read_cache(path: Path) -> bytes | None:
    """What was kept; None if there is nothing whole."""
    try:
        with _locked(path, SHARED):
            kept = read_file(path, _MAX_BYTES)
            digest = read_file(digest_file(path), _MAX_BYTES)
    except OSError:
        return None
    return kept if kept and digest == _digest_line(path, kept) else None


def write_cache(path: Path, kept: bytes) -> bool:
    """Keep it; whether that could be done."""
    contents = {path: kept, digest_file(path): _digest_line(path, kept)}
    try:
        with _locked(path, EXCLUSIVE):
            for file, content in contents.items():
                write_bytes(file, content)
    except OSError:
        return False
    return True


def digest_file(path: Path) -> Path:
    """The file beside a cache that holds its SHA-256."""
    return path.with_name(f"{path.name}.sha256")


def _digest_line(path: Path, kept: bytes) -> bytes:
    return f"{hashlib.sha256(kept).hexdigest()}  {path.name}\n".encode()


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Hold the lock beside a file. If no lock file can be made, reading goes on without one."""
    beside = path.with_name(f"{path.name}.lock")
    # A bundle may be a stranger's: a link would make a file elsewhere.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(beside, flags, 0o666)
    except OSError:
        if how == EXCLUSIVE:
            raise
        yield
        return
    try:
        lock(fd, how, beside)
        yield
    finally:
        os.close(fd)


class RuntimeCache:
    """The kernels that TensorRT for RTX compiled for a plan, as an `IRuntimeCache` and its file.

    Kernels are code, as the plan is: a file is taken only if this user's own run wrote it, or if
    the bundle's engines are trusted. Nothing is saved before `save`: a cache can have 100 MB, and
    every new shape adds to it.
    """

    def __init__(self, file: Path, *, trusted: bool, device: int) -> None:
        self._file, self._trusted, self._device = file, trusted, device
        self._cache: Any = None
        self._saved: bytes | None = None
        self._process = os.getpid()

    def attach(self, config: Any) -> None:
        """Make the contexts of an `IRuntimeConfig` take their kernels from here, and add to it."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            kept = read_cache(self._file)
            known = kept is not None and (self._trusted or is_known(_sha256(kept)))
            # One of another version or another GPU is refused, and written anew.
            if kept is not None and known and self._cache.deserialize(kept):
                self._saved = kept
        if not config.set_runtime_cache(self._cache):
            self._cache = None  # the contexts compile without one

    def save(self) -> None:
        """Write what was compiled since, if there is anything new and it can be written."""
        if self._cache is None or os.getpid() != self._process:  # a fork has no CUDA context
            return
        try:
            with on_device(self._device):  # without a CUDA context there is nothing to serialise
                kept = self._cache.serialize()
        except (VqtrtError, RuntimeError, TypeError):
            return
        content = b"" if kept is None else bytes(kept)
        if content and content != self._saved and write_cache(self._file, content):
            remember(_sha256(content), self._file)
            if self._saved is not None:
                forget(_sha256(self._saved))
            self._saved = content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
