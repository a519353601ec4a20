"""Files and folders that appear whole or not at all.

Notable: each is written under another name in the folder where it will be, synced, and renamed. A
link stays, and what it leads to is replaced. Modes are what the umask allows, or those of what is
replaced. The other name tells which process made it: what a dead one left is removed when its
folder is written to again.
"""

import ctypes
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from vqtrt.errors import VqtrtError, unwritable
from vqtrt.system.interrupts import held

_STAGE = re.compile(r"\.(.+)\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(partial|old)", re.DOTALL)
_LONGEST = 200
"""Bytes of a target's name in that of its stage: a name may have 255."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ABANDONED = 24 * 3600
"""Seconds after which a stage of another machine is named as perhaps left over."""
_FEW = 64
"""Files that are synced one by one; of more, the file system is synced at once."""
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100

_logger = logging.getLogger("vqtrt")
_tidied: set[Path] = set()


def followed(path: Path) -> Path:
    """Where a link leads, so that writing there keeps the link; another path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """An empty file to write to, which takes the place of `path` when all went well.

    Raises `OSError` if that cannot be done; `path` is then as it was.
    """
    target = followed(path)
    tidy(target.parent)
    stage = _stage(target)
    try:
        os.close(os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        yield stage
        _keep_mode(target, stage)
        _sync(stage)
        stage.replace(target)
        sync_folder(target.parent)
    finally:
        with suppress(OSError):  # such as the one that has just been raised
            stage.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file, or leave what was there; raises `OSError`."""
    with replacing_file(path) as stage:
        stage.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """The same of text, in UTF-8."""
    write_bytes(path, text.encode())


def replacing_folder(out: Path) -> AbstractContextManager[Path]:
    """A new folder that takes the place of `out` when all went well; see `_placed_folder`."""
    return _placed_folder(out, _swap)


def merging_folder(out: Path) -> AbstractContextManager[Path]:
    """A new folder whose files move into `out` at the end; files that `out` has stay.

    If an error ends the block, `out` is unchanged.
    """
    return _placed_folder(out, merge)


def merge(stage: Path, target: Path) -> None:
    """Move the content of a folder into another one, which is made by a rename if it is missing."""
    if not target.exists():
        stage.rename(target)
        return
    for path in sorted(stage.rglob("*")):
        moved = target / path.relative_to(stage)
        if path.is_dir():
            moved.mkdir(exist_ok=True)
        else:
            path.replace(moved)


def remove_folder(path: Path) -> None:
    """Remove a folder so that no half of it is ever there under its name."""
    gone = _stage(path)
    path.rename(gone)
    shutil.rmtree(gone)


def check_folder(out: Path) -> None:
    """Raise `VqtrtError` if no folder `out` can be written to: before the work, not after it."""
    target = followed(out)
    if target.exists() and not target.is_dir():
        raise VqtrtError(f"{out} is a file: name a folder with --out")
    place = target
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise unwritable(out, FileExistsError())
    _check_access(place, out)


def check_file(path: Path) -> None:
    """The same for a file, whose folder has to exist."""
    target = followed(path)
    if target.is_dir():
        raise VqtrtError(f"{path}: is a folder; give a file name")
    if not target.parent.is_dir():
        raise VqtrtError(f"{target.parent}: no such folder; create it first")
    _check_access(target.parent, path)


def _check_access(folder: Path, out: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise unwritable(out, OSError(number, os.strerror(number)))


def tidy(folder: Path) -> None:
    """Remove what dead processes left in a folder, once a process; name what may be left there.

    What another process is writing is never touched: a process of another machine, or of another
    container, counts as alive.
    """
    folder = folder.absolute()
    if folder in _tidied:
        return
    _tidied.add(folder)
    with suppress(OSError):
        for entry in os.scandir(folder):
            if found := _STAGE.fullmatch(entry.name):
                name, machine, pid, kind = found.groups()
                _tidy(Path(entry.path), folder / name, machine, int(pid), kind)


def _tidy(path: Path, target: Path, machine: str, pid: int, kind: str) -> None:
    if machine == _machine():
        if _alive(pid):
            return
        if kind == "old" and not target.exists():
            path.rename(target)  # it died between two renames
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        _logger.warning("removed %s, which a job that was killed had left", path)
    elif time.time() - path.lstat().st_mtime > _ABANDONED:
        _logger.warning(
            "%s: left by a job on another machine, more than a day ago; remove it if that job is "
            "not running any more",
            path,
        )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@lru_cache(maxsize=1)
def _machine() -> str:
    """Eight digits that stand for where a process number means something: machine, container.

    Hosts on shared storage can have one name, and the first process namespace has the same number
    everywhere, so what tells them apart is the identity of the boot, which no two machines share.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(_BOOT_ID.read_text())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


def _stage(target: Path, kind: str = "partial") -> Path:
    """A new name beside `target`."""
    name = os.fsdecode(os.fsencode(target.name)[:_LONGEST])
    unique = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return target.parent / f".{name}.{unique}.{kind}"


@contextmanager
def _placed_folder(out: Path, place: Callable[[Path, Path], None]) -> Iterator[Path]:
    """A new folder that is put into the place of `out` once all of it is on disk.

    Raises `VqtrtError` if `out` cannot be written.
    """
    target = followed(out)
    with _stage_folder(out, target) as stage:
        yield stage
        try:
            sync_tree(stage)
            with held():
                place(stage, target)
            sync_folder(target.parent)
        except OSError as error:
            raise unwritable(out, error) from error


@contextmanager
def _stage_folder(out: Path, target: Path) -> Iterator[Path]:
    """A new folder beside `target`; removed afterwards if it is still there."""
    check_folder(out)
    stage = _stage(target)
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            tidy(target.parent)
            stage.mkdir()
        except OSError as error:
            raise unwritable(out, error) from error
        try:
            yield stage
        except OSError as error:
            raise unwritable(out, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _swap(stage: Path, target: Path) -> None:
    """Put a folder into the place of another, which is removed, with the mode of that one."""
    _keep_mode(target, stage)
    if not target.exists():
        stage.rename(target)
        return
    if _exchange(stage, target):
        return  # the older one now has the stage's name, and goes with it
    old = _stage(target, "old")
    target.rename(old)
    try:
        stage.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False if the system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return not swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)


def _keep_mode(target: Path, stage: Path) -> None:
    """Give the stage the mode of what it replaces; of a new name, it is the umask's already."""
    with suppress(FileNotFoundError):
        stage.chmod(stat.S_IMODE(target.stat().st_mode))


def sync_folder(folder: Path) -> None:
    """Return once the names in a folder are on disk."""
    _sync(folder, os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Return once all that is below a folder is on disk."""
    paths = sorted(folder.rglob("*"), reverse=True)
    if len(paths) > _FEW and _sync_system(folder):
        return
    for path in paths:
        if not path.is_symlink():
            _sync(path)
    sync_folder(folder)


def _sync_system(folder: Path) -> bool:
    """Sync the file system that a folder is on; False if that cannot be told from here."""
    try:
        sync = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return False
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return not sync(fd)
    finally:
        os.close(fd)


def _sync(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot; no reason to refuse hours of work.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)
