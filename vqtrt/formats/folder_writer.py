"""Writing a folder of pictures or wavs so that a job that is stopped can be resumed.

Notable: files grow in a folder of their own, `OUT.partial` (`OUT/.vqtrt.partial` where OUT is
there, which may be a mount of its own), and move into OUT when all are written. A journal has each
file's size and checksum: what a crash tore does not match, and is made again, so that no file has
to be synced while the job runs. OUT keeps a small record of the job,
by which `--resume` knows that it is done: an extended attribute, or where a file system has none a
file `.vqtrt.json`.
"""

import json
import os
import shutil
import stat
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from vqtrt.errors import VqtrtError, unwritable
from vqtrt.formats.journal import Appender, whole_lines
from vqtrt.formats.kept import KeepsFiles
from vqtrt.system.atomic import check_folder, followed, sync_folder, sync_tree, write_text
from vqtrt.system.interrupts import check, noted
from vqtrt.version import __version__

FORMAT_VERSION = 1
RECORD = ".vqtrt.json"
ATTRIBUTE = "user.vqtrt"
_JOURNAL = ".vqtrt.jsonl"
_COMMIT_SECONDS = 2.0
_BLOCK = 1 << 16
_IN_WORDS = {"codes_sha256": "the codes", "weights_sha256": "the model", "names": "the file names"}


def partial_folder(out: Path) -> Path:
    """Where the files of `out` are while it is written."""
    target = followed(out)
    if target.is_dir() or not target.name:
        return target / ".vqtrt.partial"
    return target.with_name(f"{target.name}.partial")


def is_finished(out: Path, job: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether an earlier job of this kind has written all of `out`, by its record and the files.

    Raises `VqtrtError` if another job has written there. Without a record, or where files have
    gone, there is something to do.
    """
    if (partial_folder(out) / _JOURNAL).exists():
        return False
    try:
        record = json.loads(_read_record(out))
        old, total = record["job"], record["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    require_same_job(old, described(job, names), out)
    sizes = [_size(out / name) for name in names]
    if any(size is None for size in sizes) or sum(size or 0 for size in sizes) != total:
        return False
    with suppress(OSError):  # of a process that was killed right at its end
        (out / _JOURNAL).unlink(missing_ok=True)
    return True


class FolderWriter(KeepsFiles):
    """Writes the files `names` (relative paths, all different) into the folder `out`.

    Use it as a context manager: leaving without `finish` keeps what was committed, or removes all.
    Write each file to `path` of its index, and say so with `wrote`. With `resume` a writer starts
    with what an earlier one has `done`. `job` is what the files depend on, for JSON. Without `keep`
    nothing is kept, and no record is left.

    Raises `VqtrtError` if `out` cannot be written, is being written by another process, or was
    begun as another job.
    """

    def __init__(
        self,
        out: Path,
        job: Mapping[str, Any],
        names: Sequence[str],
        *,
        resume: bool,
        keep: bool = True,
    ) -> None:
        check_folder(out)
        self.out, self.names, self._keep = out, names, keep
        self.partial = partial_folder(out)
        self.done: set[int] = set()
        self._job = described(job, names)
        self._sizes: dict[int, int] = {}
        self._committed, self._at = 0, time.monotonic()
        self._closed = False
        journal = self.partial / _JOURNAL
        try:
            with noted():
                self.partial.mkdir(parents=True, exist_ok=True)
                self._log = Appender.open_alone(journal, out)
                try:
                    self._start(journal, resume)
                except BaseException:
                    if not self._log.size:
                        shutil.rmtree(self.partial, ignore_errors=True)
                    self._log.close()
                    raise
        except OSError as error:
            raise unwritable(out, error) from error
        try:
            check()
        except BaseException:
            self._leave()
            raise

    def _start(self, journal: Path, resume: bool) -> None:
        """Go on with what the journal says, or from nothing."""
        job, files, end = _read(journal, len(self.names)) if resume else (None, {}, 0)
        if job is not None:
            require_same_job(job, self._job, self.partial)
        self._log.truncate(end)
        for index, summary in files.items():
            if _summary(self.partial / self.names[index]) == summary:
                self.done.add(index)
                self._sizes[index] = summary[0]
        if job is None:
            for entry in self.partial.iterdir():
                if entry.name != _JOURNAL:
                    _remove(entry)
            self._log.append(json.dumps({"job": self._job}).encode("ascii") + b"\n")
        self._commit()

    def path(self, index: int) -> Path:
        """Where to write a file; the folders on the way are made."""
        path = self.partial / self.names[index]
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def wrote(self, indices: Iterable[int]) -> None:
        """Take note of files that are whole now; about every two seconds they are committed."""
        for index in indices:
            summary = _summary(self.partial / self.names[index])
            if summary is None:
                raise ValueError(f"file {index} is not written")
            self._log.append(json.dumps([index, *summary]).encode("ascii") + b"\n")
            self._sizes[index] = summary[0]
            self.done.add(index)
        if time.monotonic() - self._at > _COMMIT_SECONDS:
            self._commit()

    def finish(self) -> Path:
        """Move all files into place, and return `out`. A signal that comes meanwhile waits."""
        if len(self.done) != len(self.names):
            raise ValueError(f"{len(self.done)} of {len(self.names)} files are written")
        self._commit()
        record = {"format_version": FORMAT_VERSION, "job": self._job}
        record["bytes"] = sum(self._sizes.values())
        target = followed(self.out)
        try:
            sync_tree(self.partial)
            with noted():
                if target.is_dir():
                    for name in self.names:
                        (target / name).parent.mkdir(parents=True, exist_ok=True)
                        (self.partial / name).replace(target / name)
                    if self._keep:
                        _write_record(target, json.dumps(record))
                    shutil.rmtree(self.partial)
                else:
                    if self._keep:
                        _write_record(self.partial, json.dumps(record))
                    self.partial.rename(target)
                (target / _JOURNAL).unlink(missing_ok=True)
                sync_folder(target.parent)
                self._closed = True
                self._log.close()
        except OSError as error:
            raise unwritable(self.out, error) from error
        return self.out

    def _leave(self) -> int:
        """Stop; files that are kept, 0 after `finish`."""
        if self._closed:
            return 0
        self._closed = True
        kept = self._committed if self._keep else 0
        if not kept:
            shutil.rmtree(self.partial, ignore_errors=True)
        self._log.close()
        return kept

    def _commit(self) -> None:
        self._log.sync()
        self._committed, self._at = len(self.done), time.monotonic()


def described(job: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What a job depends on: plain values, and hashes of what is long."""
    entries = {**job, "names": list(names), "vqtrt_version": __version__}
    return {
        key: sha256(json.dumps(value).encode()).hexdigest() if isinstance(value, list) else value
        for key, value in entries.items()
    }


def _write_record(folder: Path, record: str) -> None:
    (folder / RECORD).unlink(missing_ok=True)
    try:
        os.setxattr(folder, ATTRIBUTE, record.encode())
    except OSError:
        write_text(folder / RECORD, record + "\n")


def _read_record(folder: Path) -> bytes:
    """What `_write_record` wrote; raises `OSError` if there is nothing."""
    if (folder / RECORD).is_file():
        return (folder / RECORD).read_bytes()
    return os.getxattr(folder, ATTRIBUTE)


def require_same_job(old: Any, job: dict[str, Any], begun: Path) -> None:
    """Raise `VqtrtError` if `begun` is of another job."""
    then = old if isinstance(old, dict) else {}
    for key in [*job, *(then.keys() - job.keys())]:
        if then.get(key) != job.get(key):
            what = _IN_WORDS.get(key, f"the job's {ascii(key)[1:-1][:60]}")
            raise VqtrtError(
                f"{begun}: {what} changed since it was begun; mend that, or start anew without "
                "--resume"
            )


def _read(journal: Path, count: int) -> tuple[Any, dict[int, tuple[int, int]], int]:
    """The job, sizes and checksums by index, and the length of all that is whole."""
    job: Any = None
    files: dict[int, tuple[int, int]] = {}
    end = 0
    for line in whole_lines(journal):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not end:
            if not isinstance(entry, dict) or "job" not in entry:
                break
            job = entry["job"]
        elif _is_file(entry, count):
            files[entry[0]] = entry[1], entry[2]
        else:
            break
        end += len(line)
    return job, files, end


def _is_file(entry: Any, count: int) -> bool:
    numbers = isinstance(entry, list) and all(type(part) is int for part in entry)
    return numbers and len(entry) == 3 and 0 <= entry[0] < count


def _summary(path: Path) -> tuple[int, int] | None:
    """Size and CRC-32 of a file; None if there is none."""
    if _size(path) is None:
        return None
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return size, checksum


def _size(path: Path) -> int | None:
    """Of a regular file; None for all else."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
