"""Files behind URLs (`s3://`, `gs://`, `https://`, `hf://`), read by ranges through fsspec.

Notable:
- What is read are blocks of 8 MiB, some of them ahead, in threads of their own: one request for
  each image would wait for the network most of the time.
- Every request has a time limit and is tried again a few times; what still fails is an error that
  names the file. It is never the fault of one image, so `--on-error skip` does not pass over it.
- Credentials and endpoints are fsspec's business: its environment variables and files.
"""

import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from vqtrt.data.urls import SUFFIXES, is_url, path_in_url, public_url
from vqtrt.errors import VqtrtError
from vqtrt.system import interrupts
from vqtrt.system.names import brief

T = TypeVar("T")
BLOCK = 8 << 20
"""Bytes of a request."""
_AHEAD = 3
"""Blocks that are requested before they are asked for."""
_KEPT = 12
"""Blocks in memory, of all files together."""
_ATTEMPTS = 5
_PAUSE = 0.5
"""Seconds between the first two attempts; twice as long before each further one."""
_LIMIT = 120.0
"""Seconds that an attempt may take."""
_LOOK = 0.5
"""Seconds between two looks whether a signal ended the command."""


def remote_paths(url: str) -> list[str]:
    """The tars and Parquet files that a URL stands for: itself, matches of `*`, or a folder's.

    Raises `VqtrtError` if there are none, or if the folder cannot be listed.
    """
    where = path_in_url(url)
    pattern = any(sign in str(where) for sign in "*?[")
    if len(where.parts) > 1 and where.suffix and not pattern and not url.endswith("/"):
        return [url]
    system, path = _file_system(url)
    names_of = system.glob if pattern else partial(system.ls, detail=False)
    found = _tried(public_url(url), "could not be listed", lambda: names_of(path))
    names = sorted(str(name) for name in found if PurePosixPath(name).suffix in SUFFIXES)
    if not names:
        raise VqtrtError(
            f"{public_url(url)}: holds no .tar or .parquet, which alone are read over a network; "
            "check the URL, or pack the files into tars"
        )
    return [name if is_url(name) else str(system.unstrip_protocol(name)) for name in names]


class RemoteFile:
    """A file behind a URL. Made by `open_remote`.

    Raises `VqtrtError` if it is not there, its size is not told, or it cannot be reached.
    """

    def __init__(self, url: str, indexes: Path | None = None) -> None:
        self.url, self.indexes = url, indexes
        self.name = path_in_url(url).name
        self._system, self._path = _file_system(url)
        info = _tried(str(self), "could not be opened", lambda: self._system.info(self._path))
        size = info.get("size")
        if not isinstance(size, int) or info.get("type") == "directory":
            raise VqtrtError(f"{self}: the server does not tell its size; copy it to a disk first")
        self.size: int = size
        """In bytes."""
        tags = (info.get(key) for key in ("ETag", "etag", "md5Hash", "blob_id", "checksum"))
        self.stamp = f"{size} {next((tag for tag in tags if tag), '')}"
        """What tells that the file changed: its size and the server's tag."""

    def __str__(self) -> str:
        return public_url(self.url)

    def read(self, start: int, length: int) -> bytes:
        """Bytes from a place on, fewer at the end. Raises `VqtrtError` if they cannot be had."""
        stop = min(start + length, self.size)
        if start >= stop:
            return b""
        parts = []
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            first = number * BLOCK
            parts.append(_BLOCKS.get(self, number)[max(start - first, 0) : stop - first])
        return b"".join(parts)

    def fetch(self, number: int) -> bytes:
        """A block from the server."""
        start = number * BLOCK
        stop = min(start + BLOCK, self.size)

        def once() -> bytes:
            data: bytes = self._system.cat_file(
                self._path, start=start, end=stop, **_limit(self._system)
            )
            if len(data) != stop - start:
                if len(data) == self.size:
                    raise VqtrtError(
                        f"{self}: the server sends whole files only, no ranges; copy it to a disk"
                    )
                raise OSError(f"{len(data)} bytes came")
            return data

        return _tried(str(self), f"bytes {start} to {stop - 1} could not be read", once)


class RemoteStream(io.RawIOBase):
    """A file behind a URL as a stream that can be sought in, as pyarrow takes it."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The next byte's place."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; all that follow if no number is given."""
        left = max(0, self._file.size - self._at)
        data = self._file.read(self._at, left if size is None or size < 0 else size)
        self._at += len(data)
        return data


@lru_cache(maxsize=256)
def open_remote(url: str, indexes: Path | None = None) -> RemoteFile:
    """A file behind a URL, looked up once; `indexes` is a folder to keep a tar's index in."""
    return RemoteFile(url, indexes)


class _Blocks:
    """The blocks that were read last, and those that are on their way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[RemoteFile, int], Future[bytes]] = OrderedDict()

    def get(self, file: RemoteFile, number: int) -> bytes:
        """A block; those after it are requested if the one before it was read."""
        with self._lock:
            ahead = _AHEAD if (file, number - 1) in self._kept else 0
            last = (file.size - 1) // BLOCK
            wanted = [
                self._requested(file, n) for n in range(number, min(number + ahead, last) + 1)
            ]
        return _awaited(wanted[0])

    def _requested(self, file: RemoteFile, number: int) -> "Future[bytes]":
        key = (file, number)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        future = self._kept[key] = Future()
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        # A daemon, so that a server that does not answer cannot keep a command from its end.
        threading.Thread(target=self._fetch, args=(key, future), daemon=True).start()
        return future

    def _fetch(self, key: tuple[RemoteFile, int], future: "Future[bytes]") -> None:
        file, number = key
        try:
            future.set_result(file.fetch(number))
        except BaseException as error:
            with self._lock:
                self._kept.pop(key, None)
            future.set_exception(error)


_BLOCKS = _Blocks()


def _awaited(future: "Future[bytes]") -> bytes:
    """What a future gives, unless a signal ends the command first."""
    while True:
        try:
            return future.result(_LOOK)
        except TimeoutError:
            if future.done():
                raise
            interrupts.check()
            if interrupts.received() is not None:
                raise VqtrtError("interrupted while the network was waited for") from None


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path there."""
    import fsspec

    if "::" in url:
        raise VqtrtError(f"{public_url(url)}: chained URLs are not read; name the file itself")
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise VqtrtError(f"{public_url(url)}: {brief(str(error))}; check the URL") from error
    except Exception as error:
        raise VqtrtError(f"{public_url(url)}: cannot be opened ({_reason(error)})") from error
    return system, path


def _limit(system: Any) -> dict[str, float]:
    """The time limit of a request, where fsspec takes one."""
    from fsspec.asyn import AsyncFileSystem

    return {"timeout": _LIMIT} if isinstance(system, AsyncFileSystem) else {}


def _tried(name: str, what: str, once: Callable[[], T]) -> T:
    """What a request gives, tried a few times; `what` says that it failed.

    Raises `VqtrtError` for what another attempt cannot mend, and after the last attempt.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            return once()
        except VqtrtError:
            raise
        except Exception as error:  # each protocol has errors of its own
            if _is_final(error):
                missing = isinstance(error, FileNotFoundError)
                why = "no such file" if missing else _reason(error)
                raise VqtrtError(f"{name}: {why}; check the URL and your credentials") from error
            last = error
    raise VqtrtError(
        f"{name}: {what} in {_ATTEMPTS} attempts ({_reason(last)}); check the connection and your "
        "credentials, and run the same command again"
    ) from last


def _is_final(error: BaseException) -> bool:
    """Whether another attempt would end in the same way."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        # aiohttp calls an answer that it cannot read 400.
        return 400 < status < 500 and status not in (408, 425, 429)
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return _is_final(error.__cause__)  # fsspec calls any failure of a look-up "not found"
    return isinstance(
        error, FileNotFoundError | PermissionError | ImportError | NotImplementedError
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error).splitlines()
    return brief(f"{type(error).__name__}: {text[0]}" if text else type(error).__name__)
