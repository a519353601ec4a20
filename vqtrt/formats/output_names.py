"""Names of the files that decode and convert write, after those that their codes came from.

The names may be a stranger's, and the file system may take less than the one they came from. Every
name is settled before the first file is written: all are different, none leaves the output folder,
and one that is too long is shortened, always to the same name.
"""

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vqtrt.errors import VqtrtError
from vqtrt.system.names import brief

_MOST_FOLDERS = 255
"""That a name may be deep; making folders is recursive."""
_STAGE = 64
"""Bytes that are left for the name of the folder that files are first written to."""
_DIGITS = 16


class NameLimits(NamedTuple):
    """What a file system takes, in bytes."""

    component: int = 255
    """Of the name of one file or folder."""
    path: int = 4095 - _STAGE
    """Of a path below the output folder."""


def name_limits(out: Path) -> NameLimits:
    """The limits of the file system that the folder `out` is on, or will be.

    Raises `VqtrtError` for a folder whose path leaves no room for names.
    """
    place = out.absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        component, path = os.pathconf(place, "PC_NAME_MAX"), os.pathconf(place, "PC_PATH_MAX")
    except (OSError, ValueError):  # a folder that is closed; not every file system tells
        component = path = -1
    component, path = (component if component > 0 else 255), (path if path > 0 else 4096)
    used = len(os.fsencode(out.absolute())) + len("/") + len("\0") + _STAGE
    if path - used < component:
        raise VqtrtError(f"{out}: is so long that names below it find no room; change --out")
    return NameLimits(component, path - used)


def output_names(
    files: Sequence[str],
    count: int,
    codes: Path,
    suffix: str,
    limits: NameLimits | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Relative paths ending in `suffix` for `count` items, by the `files` they came from.

    Without files, they are numbered. `note` is told, once, where names had to be shortened. Raises
    `VqtrtError` for a name that would leave the folder.
    """
    if not files:
        return [f"{row:06d}{suffix}" for row in range(count)]
    limits = limits or NameLimits()
    paths = [_inside(file, codes) for file in files]
    places = sorted(fitted(path, limits) for path in paths)
    taken: set[str] = set()
    names, shortened = [], []
    for row, path in enumerate(paths):
        for wanted in _candidates(path, row, suffix):
            name = fitted(wanted, limits, suffix)
            if name not in taken and not _is_folder(name, places):
                break
        if name != wanted:
            shortened.append((path, name))
        taken.add(name)
        names.append(name)
    if shortened:
        path, name = shortened[0]
        note(
            f"{len(shortened)} names are longer than the file system takes, and are shortened: "
            f"{brief(path)} becomes {name}"
        )
    return names


def _candidates(path: str, row: int, suffix: str) -> Iterator[str]:
    """Names for an item, the best first."""
    # a.jpg and a.png of one folder must not become one picture, nor take a folder's name.
    # An array's item, `images.npy[17]`, has no suffix to replace.
    if not path.endswith("]"):
        yield str(PurePosixPath(path).with_suffix(suffix))
    yield f"{path}{suffix}"
    name = f"{path}-{row:06d}"
    while True:
        yield f"{name}{suffix}"
        name += "_"


def fitted(path: str, limits: NameLimits, suffix: str = "") -> str:
    """A relative path that the file system takes: the path itself, or one with parts cut short.

    What is cut off is replaced by the beginning of its SHA-256, so that different paths stay
    different and equal folders equal; the file keeps `suffix`.
    """
    length = len(os.fsencode(path))
    if length <= min(limits.component, limits.path, 2 * _MOST_FOLDERS):
        return path
    *folders, name = path.split("/")
    name = _cut(name, limits.component, suffix)
    folders = [_cut(folder, limits.component) for folder in folders]
    whole = "/".join((*folders, name))
    if len(folders) <= _MOST_FOLDERS and len(os.fsencode(whole)) <= limits.path:
        return whole
    whole = f"~{_digest('/'.join(folders))}/{name}"
    return whole if len(os.fsencode(whole)) <= limits.path else f"~{_digest(path)}{suffix}"


def _cut(name: str, most: int, suffix: str = "") -> str:
    """One component of a path, of at most `most` bytes."""
    data = os.fsencode(name)
    if len(data) <= most:
        return name
    kept = os.fsdecode(data[: max(0, most - len(suffix) - 1 - _DIGITS)])
    # Half a character at the end.
    kept = kept.rstrip("".join(map(chr, range(0xDC80, 0xDD00))))
    return f"{kept}~{_digest(name)}{suffix}"


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:_DIGITS]


def _is_folder(name: str, places: Sequence[str]) -> bool:
    """Whether a name is a folder of one of the sorted paths."""
    at = bisect_left(places, f"{name}/")
    return at < len(places) and places[at].startswith(f"{name}/")


def _inside(file: str, codes: Path) -> str:
    """A row's file as a path that stays in the output folder."""
    path = PurePosixPath(file)
    try:
        usable = b"\0" not in os.fsencode(file) and bool(path.name)
    except UnicodeEncodeError:
        usable = False
    if not usable or path.is_absolute() or ".." in path.parts:
        raise VqtrtError(
            f"{codes}: its .json names {brief(file)!r}, which is no file in the output folder; "
            "mend or remove the .json"
        )
    return str(path)
