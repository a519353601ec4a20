"""Several folders or files as one source: `vqtrt encode a/ b/ c.png`."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from glob import glob
from pathlib import Path, PurePath
from typing import Any, TypeVar

from vqtrt.data.remote import remote_paths
from vqtrt.data.source import Item, Source, stamps_of
from vqtrt.data.urls import is_url, path_in_url, public_url
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable

S = TypeVar("S", bound=Source)
_RANGE = re.compile(r"\{(?P<first>\d+)\.\.(?P<last>\d+)\}")
_GLOB = re.compile(r"[*?\[]")
_MAX_RANGE = 1_000_000


def open_each(paths: Sequence[str], open_one: Callable[[str], S]) -> S:
    """The source of one path, or of several paths as one. Raises what `open_one` raises."""
    if len(paths) == 1:
        return open_one(paths[0])
    # A source of several has the methods of those that it is made of, whatever their kind.
    several: Any = SeveralSources(paths, [open_one(path) for path in paths])
    return several  # type: ignore[no-any-return]


def expanded_paths(texts: Sequence[str]) -> list[str]:
    """Paths of what a user typed: `x-{000..099}.tar`, `*.tar`, `@list.txt`; `-` lists on stdin.

    A URL stands for a tar or a Parquet file, or for all of these in a folder.

    A path that exists stands for itself, whatever characters it has. Raises `VqtrtError` for a
    pattern that nothing matches, and for a list that cannot be read or is empty.
    """
    found: list[str] = []
    for text in texts:
        if text == "-" or (text.startswith("@") and not Path(text).exists()):
            found += _listed(text)
            continue
        for path in [text] if _exists(text) else _braces(text):
            if is_url(path):
                found += remote_paths(path)
            else:
                found += [path] if _exists(path) or not _GLOB.search(path) else _globbed(path)
    return found


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _braces(text: str) -> list[str]:
    """`{000..099}` as the numbers from the first to the last, as wide as they are written."""
    if not (range_ := _RANGE.search(text)):
        return [text]
    first, last = range_["first"], range_["last"]
    if not 0 <= int(last) - int(first) < _MAX_RANGE:
        raise VqtrtError(
            f"{printable(text)}: {{{first}..{last}}} has to ascend, to {_MAX_RANGE:,} at most"
        )
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    before, after = text[: range_.start()], text[range_.end() :]
    numbers = range(int(first), int(last) + 1)
    return [path for n in numbers for path in _braces(f"{before}{n:0{width}}{after}")]


def _globbed(pattern: str) -> list[str]:
    paths = sorted(glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute path
    if not paths:
        raise VqtrtError(f"{printable(pattern)}: no such file or folder; check the path")
    return paths


def _listed(text: str) -> list[str]:
    """The lines of a list that are not empty."""
    try:
        with sys.stdin if text == "-" else Path(text[1:]).open(encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise VqtrtError(f"{printable(text)}: no list of paths that can be read") from error
    if not any(lines):
        raise VqtrtError(f"{printable(text)}: lists no paths; write one on each line")
    return [line for line in lines if line]


class SeveralSources:
    """Sources of one kind, one after the other, as one.

    An item's name begins with the name of the folder that was given, or the path of it if several
    have that name; a file that was given is named as it lies in its folder. Classes of equal names
    are one class. `key` of an item is the place of its source and the item there.

    Raises `VqtrtError` if a path is given twice.
    """

    def __init__(self, paths: Sequence[str], sources: Sequence[Any]) -> None:
        self.paths, self.sources = tuple(map(public_url, paths)), tuple(sources)
        self._stamps = [stamps_of(source) for source in sources]
        places = [_place(path) for path in paths]
        seen = set[PurePath]()
        for path, place in zip(self.paths, places, strict=True):
            if place in seen:
                raise VqtrtError(f"{printable(path)}: is given twice; leave one out")
            seen.add(place)
        ends = [place.name for place in places]
        distinct = len(set(ends)) == len(ends)
        # Without a leading `/`, so that files named after the items stay below their folder.
        names = ends if distinct else [str(place).lstrip("/") for place in places]
        above = ["" if distinct else f"{PurePath(name).parent}/" for name in names]
        self._prefixes = [
            f"{name}/" if isinstance(place, Path) and place.is_dir() else folder
            for name, place, folder in zip(names, places, above, strict=True)
        ]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of all sources, sorted."""
        return tuple(sorted({name for source in self.sources for name in source.classes}))

    def items(self) -> Iterator[Item]:
        """All items of the first source, then all of the second, and so on."""
        for place in range(len(self.sources)):
            yield from self.items_of(place)

    def items_of(self, place: int, own: Iterable[Item] | None = None) -> Iterator[Item]:
        """The items of one of the sources; `own` is what it lists, if that is known."""
        numbers = {name: index for index, name in enumerate(self.classes)}
        labels = [numbers[name] for name in self.sources[place].classes]
        for item in self.sources[place].items() if own is None else own:
            label = labels[item.label] if item.label >= 0 else -1
            yield Item(f"{self._prefixes[place]}{item.name}", label, (place, item))

    def read(self, item: Item, preprocessing: Any = None) -> Any:
        """As the source of the item."""
        place, own = item.key
        return self.sources[place].read(own, preprocessing)

    def blocks(self, item: Item, preprocessing: Any) -> Any:
        """As the source of the item, of recordings."""
        place, own = item.key
        return self.sources[place].blocks(own, preprocessing)

    def path(self, item: Item) -> Path:
        """As the source of the item."""
        place, own = item.key
        path: Path = self.sources[place].path(own)
        return path

    def stamp(self, item: Item) -> str:
        """As the source of the item, if it has stamps."""
        place, own = item.key
        stamp: str = self._stamps[place](own)
        return stamp

    def text(self, item: Item) -> str | None:
        """As the source of the item, of recordings."""
        place, own = item.key
        text: str | None = self.sources[place].text(own)
        return text


def _place(path: str) -> PurePath:
    """Where a path leads: a `Path`, unless it is a URL."""
    return path_in_url(path) if is_url(path) else Path(path).resolve()


def parts(source: object) -> tuple[object, ...]:
    """The sources that a source is made of; itself, if it is one."""
    return source.sources if isinstance(source, SeveralSources) else (source,)
