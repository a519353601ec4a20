"""Writing pictures or wavs into one tar so that a job that is stopped can be resumed.

Notable: the tar grows as `OUT.tar.partial`; a journal beside it has the members up to each commit
and the length of the tar there, which is synced before. Resuming cuts the tar to the last commit.
Its first block, a pax header that readers pass over, says which job made it: by this `--resume`
knows that a finished tar is done. Members have no time and no owner.
"""

import json
import shutil
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vqtrt.errors import unwritable
from vqtrt.formats.folder_writer import described, require_same_job
from vqtrt.formats.journal import Appender, whole_lines
from vqtrt.formats.kept import KeepsFiles
from vqtrt.system.atomic import check_file, followed, sync_folder
from vqtrt.system.files import open_file
from vqtrt.system.interrupts import check, noted

FORMAT_VERSION = 1
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_COMMIT_SECONDS = 2.0
_COPIED = 1 << 20
_MAX_HEAD = 1 << 20


def is_finished_tar(out: Path, job: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether an earlier job of this kind has written `out`.

    Raises `VqtrtError` if another job has.
    """
    if _beside(followed(out))[0].exists():
        return False
    try:
        with open_file(out) as file:
            old = _job_of(file.read(_MAX_HEAD))
    except OSError:
        return False
    if old is None:
        return False
    require_same_job(old, described(job, names), out)
    return True


class TarWriter(KeepsFiles):
    """Writes the files `names` (relative paths, all different) into the tar `out`.

    It is used as `FolderWriter`; members come in the order of `wrote`. Raises `VqtrtError` if `out`
    cannot be written, is being written by another process, or was begun as another job.
    """

    def __init__(
        self, out: Path, job: Mapping[str, Any], names: Sequence[str], *, resume: bool
    ) -> None:
        check_file(out)
        self.out, self.names = followed(out), names
        self.partial, self._journal, self._files = _beside(self.out)
        self.done: set[int] = set()
        self._job = described(job, names)
        self._new: list[int] = []
        self._committed, self._at = 0, time.monotonic()
        self._closed = False
        try:
            with noted():
                self._log = Appender.open_alone(self._journal, self.out)
                try:
                    self._data = Appender.open(self.partial)
                    self._start(resume)
                except BaseException:
                    if not self._log.size:  # what another job has begun stays
                        self._remove()
                    self._close()
                    raise
        except OSError as error:
            raise unwritable(out, error) from error
        try:
            check()
        except BaseException:
            self._leave()
            raise

    def _start(self, resume: bool) -> None:
        """Go on from the last commit, or from nothing."""
        job, done, length, end = _read(self._journal, len(self.names), self._data.size)
        if resume and job is not None:
            require_same_job(job, self._job, self.partial)
        if not resume or not length:
            done, length, end = [], 0, 0
        self._data.truncate(length)
        self._log.truncate(end)
        self.done.update(done)
        self._committed = len(self.done)
        shutil.rmtree(self._files, ignore_errors=True)
        self._files.mkdir()
        if not length:
            self._log.append(json.dumps({"job": self._job}).encode("ascii") + b"\n")
            self._data.append(_head(self._job))
            self._commit()

    def path(self, index: int) -> Path:
        """Where to write a file, which `wrote` moves into the tar."""
        return self._files / f"{index}{Path(self.names[index]).suffix}"

    def wrote(self, indices: Iterable[int]) -> None:
        """Add files that are whole now; about every two seconds they are committed."""
        for index in indices:
            path = self.path(index)
            if index not in self.done:
                info = tarfile.TarInfo(self.names[index])
                info.size, info.mode = path.stat().st_size, 0o644
                self._data.append(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
                with path.open("rb") as file:
                    while block := file.read(_COPIED):
                        self._data.append(block)
                self._data.append(bytes(-info.size % _BLOCK))
                self.done.add(index)
                self._new.append(index)
            path.unlink()
        if time.monotonic() - self._at > _COMMIT_SECONDS:
            self._commit()

    def finish(self) -> Path:
        """Put the tar into place, and return `out`. A signal that comes meanwhile waits."""
        if len(self.done) != len(self.names):
            raise ValueError(f"{len(self.done)} of {len(self.names)} files are written")
        try:
            self._commit()
            self._data.append(_END)
            self._data.sync()
            with noted():
                self.partial.rename(self.out)
                self._remove()
                sync_folder(self.out.parent)
                self._closed = True
                self._close()
        except OSError as error:
            raise unwritable(self.out, error) from error
        return self.out

    def _leave(self) -> int:
        """Stop; files that are kept, 0 after `finish`."""
        if self._closed:
            return 0
        self._closed = True
        shutil.rmtree(self._files, ignore_errors=True)
        if not self._committed:
            self._remove()
        self._close()
        return self._committed

    def _commit(self) -> None:
        self._data.sync()
        line = {"members": self._new, "bytes": self._data.size}
        self._log.append(json.dumps(line).encode("ascii") + b"\n")
        self._log.sync()
        self._committed, self._at, self._new = len(self.done), time.monotonic(), []

    def _remove(self) -> None:
        """Remove all but the tar that is in place."""
        shutil.rmtree(self._files, ignore_errors=True)
        for path in (self.partial, self._journal):
            with suppress(OSError):
                path.unlink()

    def _close(self) -> None:
        for file in (getattr(self, "_data", None), self._log):
            if file is not None:
                file.close()


def _beside(out: Path) -> tuple[Path, Path, Path]:
    """The tar while it is written, its journal, and the folder of the files that go into it."""
    ends = (".partial", ".partial.jsonl", ".partial.files")
    return tuple(out.with_name(f"{out.name}{end}") for end in ends)  # type: ignore[return-value]


def _head(job: dict[str, Any]) -> bytes:
    """The first member: what made the tar, as a comment on all that follow."""
    known = json.dumps({"vqtrt": FORMAT_VERSION, "job": job}, sort_keys=True)
    return tarfile.TarInfo.create_pax_global_header({"comment": known})


def _job_of(head: bytes) -> Any:
    """The job of a tar by its first bytes; None if it tells of none."""
    try:
        first = tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "surrogateescape")
        data = head[_BLOCK : _BLOCK + first.size].decode()
        known = json.loads(data.partition(" comment=")[2])
        return known["job"] if known["vqtrt"] == FORMAT_VERSION else None
    except (tarfile.HeaderError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(journal: Path, count: int, size: int) -> tuple[Any, list[int], int, int]:
    """The job; the members and the lengths of tar and journal at the last commit that holds."""
    job: Any = None
    members: list[int] = []
    length = end = at = 0
    for line in whole_lines(journal):
        at += len(line)
        try:
            entry = json.loads(line)
            if at == len(line):
                job = entry["job"]
                continue
            more, place = entry["members"], entry["bytes"]
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        fits = all(type(n) is int and 0 <= n < count for n in more) and type(place) is int
        if not fits or not length <= place <= size:
            break
        members += more
        length, end = place, at
    return job, members, length, end
