"""Tars as sources: an index of all headers, then each member read by itself.

Notable:
- Nothing is lost in silence. Every header's checksum is verified, the tar must end with its end
  mark, and nothing may follow it: Python's `tarfile` and readers built on it stop at a damaged
  header or a cut file as if it were the end.
- Names may be long (pax, GNU) and sizes large (base 256). Links and folders are no items.
- Members of one sample share the name up to the first dot of its last part, as in WebDataset's
  layout (`0001.jpg`, `0001.cls`), and need not lie next to each other.
"""

import errno
import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vqtrt.data.folder import FileTree
from vqtrt.data.selection import Selection, add_kind
from vqtrt.data.source import Item, Stored
from vqtrt.errors import VqtrtError
from vqtrt.system.files import open_file
from vqtrt.system.names import printable

_BLOCK = 512
_MAX_EXTENSION = 1 << 20
"""Bytes of a pax or GNU header: names and a few numbers."""
_MAX_MEMBERS = 50_000_000
_MAX_FILE = 1 << 30
"""Bytes of a file that is read into memory as a whole."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


@dataclass(frozen=True)
class Member(Stored):
    """A file in a tar."""

    archive: Path
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read(self) -> bytes:
        """Its bytes, at most 1 GiB; raises `OSError` also if the tar has become shorter."""
        if self.size > _MAX_FILE:
            raise OSError(errno.EFBIG, f"has {self.size} bytes, more than {_MAX_FILE}: unpack it")
        with open_file(self.archive) as file:
            data = os.pread(file.fileno(), self.size, self.offset)
            while len(data) < self.size:
                more = os.pread(file.fileno(), self.size - len(data), self.offset + len(data))
                if not more:
                    raise OSError(0, "the tar became shorter while it was read", str(self.archive))
                data += more
        return data


class TarIndex(NamedTuple):
    """What a tar holds."""

    members: dict[str, Member]
    """Its files in their order, by name."""
    headers_sha256: str


@lru_cache(maxsize=8)
def _index(path: Path, size: int, changed: int) -> TarIndex:
    """The index of a tar as long as it stays the same."""
    members: dict[str, Member] = {}
    digest = hashlib.sha256()
    with open_file(path) as file:
        for name, member in _members(path, file, size, digest):
            if name in members:
                raise _damaged(path, member.offset, f"a second member {printable(name)}")
            if len(members) >= _MAX_MEMBERS:
                raise _damaged(path, member.offset, f"more than {_MAX_MEMBERS} members")
            members[name] = member
    return TarIndex(members, digest.hexdigest())


def tar_index(path: Path) -> TarIndex:
    """The files in a tar.

    Raises `VqtrtError` if it cannot be read, or is damaged, cut or compressed: with the offset.
    """
    try:
        status = path.stat()
        return _index(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise VqtrtError(f"{printable(path)}: cannot be read ({error.strerror})") from error


def _members(path: Path, file: BinaryIO, size: int, digest: Any) -> Iterator[tuple[str, Member]]:
    """Name and place of each file, in order; all headers are verified."""
    more: dict[str, Any] = {}
    at = 0
    while True:
        block = os.pread(file.fileno(), _BLOCK, at)
        if not block.strip(b"\0") and len(block) == _BLOCK:
            _check_end(path, file, at)
            return
        if len(block) < _BLOCK and at:
            raise _damaged(path, at, "it is cut off: there is no end mark")
        digest.update(block)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if at:
                raise _damaged(path, at, f"a damaged header ({error})") from error
            raise VqtrtError(
                f"{printable(path)}: no tar, or a compressed one, which is not read: decompress it "
                "first"
            ) from error
        start = at + _BLOCK
        count = int(more.get("size", header.size)) if header.type in _FILES else header.size
        if count < 0 or start + count > size:
            raise _damaged(path, at, f"it is cut off: {count} bytes were to follow")
        at = start + -(-count // _BLOCK) * _BLOCK
        if header.type in (*_EXTENSIONS, *_LONG):
            if count > _MAX_EXTENSION:
                raise _damaged(path, start, f"a header of {count} bytes")
            data = os.pread(file.fileno(), count, start)
            digest.update(data)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                more["path"] = data.split(b"\0")[0].decode("utf-8", "surrogateescape")
            elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                more |= _pax(path, start, data)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse") for key in more
        ):
            raise _damaged(path, start - _BLOCK, "a sparse file; make the tar without --sparse")
        if header.type in _FILES and not header.name.endswith("/"):
            name = str(more.get("path", header.name)).removeprefix("./")
            yield name, Member(name, path, start, count)
        more = {}


def _check_end(path: Path, file: BinaryIO, at: int) -> None:
    """Raise `VqtrtError` unless zeros alone follow the end mark."""
    while block := os.pread(file.fileno(), 1 << 20, at):
        if rest := block.lstrip(b"\0"):
            where = at + len(block) - len(rest)
            raise _damaged(path, where, "data follow the end mark; make one tar of several")
        at += len(block)


def _pax(path: Path, start: int, data: bytes) -> dict[str, Any]:
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
        raise _damaged(path, start + at, "a damaged extended header") from error
    return found


def _damaged(path: Path, at: int, what: str) -> VqtrtError:
    return VqtrtError(f"{printable(path)}: at byte {at}: {what}; copy or make the tar once more")


class TarTree(FileTree):
    """The files of a tar that are items, in its order; `own` is as for `FileTree`."""

    def __init__(self, root: Path, selection: Selection | None, own: Callable[[str], str]) -> None:
        super().__init__(root, selection, own)
        self._parents: dict[str, str] = {"": ""}

    def paths(self) -> Iterator[str]:
        """Names of the items."""
        counts = Counter[str]()
        for name in tar_index(self.root).members:
            if kind := self._kind_of(name):
                add_kind(counts, kind)
            else:
                yield name
        self._passed_over = counts

    def member(self, name: str) -> Member:
        """Where a file is; raises `KeyError` for one that is not there."""
        return tar_index(self.root).members[name]

    def stamp(self, item: Item) -> str:
        """Where an item lies, and all headers of the tar."""
        member: Member = item.key
        return f"{tar_index(self.root).headers_sha256} {member.offset} {member.size}"

    def sibling(self, name: str, ending: str) -> bytes | None:
        """The bytes of the file with another ending in the sample that a file is of."""
        other = tar_index(self.root).members.get(f"{sample_key(name)}{ending}")
        return other.read() if other and other.size <= _MAX_EXTENSION else None

    def _kind_of(self, name: str) -> str:
        folder = name.rpartition("/")[0]
        return self._folder_kind(folder) or self._judge(name, False)

    def _folder_kind(self, folder: str) -> str:
        if folder not in self._parents:
            above = self._folder_kind(folder.rpartition("/")[0])
            self._parents[folder] = above or self._judge(folder, True)
        return self._parents[folder]


def sample_key(name: str) -> str:
    """The name up to the first dot of its last part: what files of one sample share."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"
