"""Where each file of a tar lies: one pass over its headers.

Notable:
- Nothing is lost in silence. Every header's checksum is verified, the tar must end with its end
  mark, and nothing may follow it: Python's `tarfile` and readers built on it stop at a damaged
  header or a cut file as if it were the end.
- Names may be long (pax, GNU) and sizes large (base 256). Links and folders are no items.
- The headers of a tar behind a URL lie between its files, so the pass reads all of it. Its index is
  kept in a folder, if there is one for it, and found there by other jobs.
"""

import atexit
import errno
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vqtrt.data.remote import RemoteFile
from vqtrt.data.source import Stored
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.system.atomic import write_bytes
from vqtrt.system.files import open_file, read_file
from vqtrt.system.names import printable

_BLOCK = 512
_MAX_EXTENSION = 1 << 20
"""Bytes of a pax or GNU header: names and a few numbers."""
_MAX_MEMBERS = 50_000_000
_MAX_FILE = 1 << 30
"""Bytes of a file that is read into memory as a whole."""
_MAX_LABEL = 64
"""Bytes of a .cls file."""
_MAX_INDEX = 16 << 30
_VERSION = 1
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)

Archive = Path | RemoteFile
"""A tar on a disk or behind a URL."""
_Read = Callable[[int, int], bytes]
"""Bytes from a place on, so many or fewer at the end."""


@dataclass(frozen=True)
class Member(Stored):
    """A file in a tar."""

    archive: Archive
    offset: int
    size: int
    label: bytes | None = None
    """Its bytes, if it is a .cls file: these are read with the headers."""

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read(self) -> bytes:
        """Its bytes, at most 1 GiB; raises `OSError` also if the tar has become shorter."""
        if self.label is not None:
            return self.label
        if self.size > _MAX_FILE:
            raise OSError(errno.EFBIG, f"has {self.size} bytes, more than {_MAX_FILE}: unpack it")
        with _reading(self.archive) as read:
            data = read(self.offset, self.size)
            while len(data) < self.size:
                more = read(self.offset + len(data), self.size - len(data))
                if not more:
                    raise OSError(0, "the tar became shorter while it was read", str(self.archive))
                data += more
        return data


class TarIndex(NamedTuple):
    """What a tar holds."""

    members: dict[str, Member]
    """Its files in their order, by name."""
    headers_sha256: str


def tar_index(archive: Archive) -> TarIndex:
    """The files in a tar.

    Raises `VqtrtError` if it cannot be read, or is damaged, cut or compressed: with the offset.
    """
    if isinstance(archive, RemoteFile):
        return _remote_index(archive)
    try:
        status = archive.stat()
        return _local_index(archive, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise VqtrtError(f"{printable(archive)}: cannot be read ({error.strerror})") from error


@lru_cache(maxsize=8)
def _local_index(path: Path, size: int, changed: int) -> TarIndex:
    """The index of a tar as long as it stays the same."""
    return _made(path, size)


@lru_cache(maxsize=8)
def _remote_index(archive: RemoteFile) -> TarIndex:
    """The index that is kept of a tar, or a new one, which is then kept."""
    folder = archive.indexes or _temporary()
    tag = hashlib.sha256(f"{archive}\0{archive.stamp}".encode("utf-8", "surrogateescape"))
    path = folder / f"{tag.hexdigest()[:32]}.jsonl"
    if found := _read_index(path, archive):
        return found
    made = _made(archive, archive.size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _index_text(made, archive))
    except OSError as error:
        raise unwritable(path, error) from error
    return made


@cache
def _temporary() -> Path:
    """A folder for indexes until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="vqtrt-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _index_text(index: TarIndex, archive: RemoteFile) -> bytes:
    first = {
        "format_version": _VERSION,
        "url": str(archive),
        "size": archive.size,
        "headers_sha256": index.headers_sha256,
        "members": len(index.members),
    }
    lines = [json.dumps(first)]
    for name, member in index.members.items():
        label = [] if member.label is None else [member.label.decode("latin-1")]
        lines.append(json.dumps([name, member.offset, member.size, *label]))
    return ("\n".join(lines) + "\n").encode("ascii")


def _read_index(path: Path, archive: RemoteFile) -> TarIndex | None:
    """The index in a file; None if there is none, or it is not one of this tar."""
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        lines = read_file(path, _MAX_INDEX).splitlines()
        first = json.loads(lines[0])
        if first["format_version"] != _VERSION or first["members"] != len(lines) - 1:
            return None
        members: dict[str, Member] = {}
        for line in lines[1:]:
            name, offset, size, *label = json.loads(line)
            if not (type(offset) is type(size) is int and 0 <= offset <= offset + size):
                return None
            if offset + size > archive.size:
                return None
            data = label[0].encode("latin-1") if label else None
            members[str(name)] = Member(str(name), archive, offset, size, data)
        return TarIndex(members, str(first["headers_sha256"]))
    return None


@contextmanager
def _reading(archive: Archive) -> Iterator[_Read]:
    """What reads a tar by ranges, while the block runs."""
    if isinstance(archive, RemoteFile):
        yield archive.read
        return
    with open_file(archive) as file:
        descriptor = file.fileno()
        yield lambda start, length: os.pread(descriptor, length, start)


def _made(archive: Archive, size: int) -> TarIndex:
    """A new index."""
    members: dict[str, Member] = {}
    digest = hashlib.sha256()
    with _reading(archive) as read:
        for member in _members(archive, read, size, digest):
            if member.name in members:
                raise _damaged(archive, member.offset, f"a second member {printable(member.name)}")
            if len(members) >= _MAX_MEMBERS:
                raise _damaged(archive, member.offset, f"more than {_MAX_MEMBERS} members")
            members[member.name] = member
    return TarIndex(members, digest.hexdigest())


def _members(archive: Archive, read: _Read, size: int, digest: Any) -> Iterator[Member]:
    """Each file in order; all headers are verified."""
    more: dict[str, Any] = {}
    at = 0
    while True:
        block = read(at, _BLOCK)
        if not block.strip(b"\0") and len(block) == _BLOCK:
            _check_end(archive, read, at)
            return
        if len(block) < _BLOCK and at:
            raise _damaged(archive, at, "it is cut off: there is no end mark")
        digest.update(block)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if at:
                raise _damaged(archive, at, f"a damaged header ({error})") from error
            raise VqtrtError(
                f"{printable(archive)}: no tar, or a compressed one, which is not read: decompress "
                "it first"
            ) from error
        start = at + _BLOCK
        count = int(more.get("size", header.size)) if header.type in _FILES else header.size
        if count < 0 or start + count > size:
            raise _damaged(archive, at, f"it is cut off: {count} bytes were to follow")
        at = start + -(-count // _BLOCK) * _BLOCK
        if header.type in (*_EXTENSIONS, *_LONG):
            if count > _MAX_EXTENSION:
                raise _damaged(archive, start, f"a header of {count} bytes")
            data = read(start, count)
            digest.update(data)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                more["path"] = data.split(b"\0")[0].decode("utf-8", "surrogateescape")
            elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                more |= _pax(archive, start, data)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse") for key in more
        ):
            raise _damaged(archive, start - _BLOCK, "a sparse file; make the tar without --sparse")
        if header.type in _FILES and not header.name.endswith("/"):
            name = str(more.get("path", header.name)).removeprefix("./")
            is_label = name.endswith(".cls") and count <= _MAX_LABEL
            yield Member(name, archive, start, count, read(start, count) if is_label else None)
        more = {}


def _check_end(archive: Archive, read: _Read, at: int) -> None:
    """Raise `VqtrtError` unless zeros alone follow the end mark."""
    while block := read(at, 1 << 20):
        if rest := block.lstrip(b"\0"):
            where = at + len(block) - len(rest)
            raise _damaged(archive, where, "data follow the end mark; make one tar of several")
        at += len(block)


def _pax(archive: Archive, start: int, data: bytes) -> dict[str, Any]:
    """The records of an extended header."""
    found: dict[str, Any] = {}
    at = 0
    try:
        while at < len(data) and data[at]:
            length = int(data[at : data.index(b" ", at)])
            key, _, value = data[data.index(b" ", at) + 1 : at + length - 1].partition(b"=")
            if length < 5 or data[at + length - 1 : at + length] != b"\n":
                raise ValueError
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
            at += length
        if "size" in found:
            found["size"] = int(found["size"])
    except ValueError as error:
        raise _damaged(archive, start + at, "a damaged extended header") from error
    return found


def _damaged(archive: Archive, at: int, what: str) -> VqtrtError:
    return VqtrtError(f"{printable(archive)}: at byte {at}: {what}; copy or make the tar once more")
