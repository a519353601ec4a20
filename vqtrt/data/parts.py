"""The parts of a source: a folder, a tar, an array. A shard lies within one part."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from vqtrt.data.folder import FileTree
from vqtrt.data.several import SeveralSources
from vqtrt.data.source import Item, MaybeOneFile, Source, stamps_of


class Part:
    """Items of a source that lie in one place, or files of a list that follow each other."""

    def __init__(self, source: Any, name: str, places: range | None = None) -> None:
        self._source, self.name, self._places = source, name, places

    @property
    def folder(self) -> FileTree | None:
        """The folder that the part is, if it is one; walking it may take minutes."""
        own = self._source
        if self._places is not None:
            own = own.sources[self._places[0]]
        return own if isinstance(own, FileTree) and not own.is_one_file else None

    def items(self, listed: Iterable[Item] | None = None) -> Iterator[Item]:
        """The items in order; `listed` is what `folder` has, to save the walk."""
        if self._places is None:
            return iter(self._source.items() if listed is None else listed)
        if listed is not None:
            return iter(self._source.items_of(self._places[0], listed))
        return itertools.chain.from_iterable(map(self._source.items_of, self._places))


class Survey(NamedTuple):
    """What a part holds, without reading it."""

    items: int
    sha256: str
    """Of the names in their order."""


def parts_of(source: Source, root: str) -> list[Part]:
    """The parts in their order; `root` is the name of a source that is one part."""
    if not isinstance(source, SeveralSources):
        return [Part(source, root)]
    parts: list[Part] = []
    for single, run in itertools.groupby(range(len(source.paths)), _is_file(source)):
        places = list(run)
        step = len(places) if single else 1
        for start in range(places[0], places[-1] + 1, step):
            others = f" and {step - 1} more" if step > 1 else ""
            name = f"{source.paths[start]}{others}"
            parts.append(Part(source, name, range(start, start + step)))
    return parts


def _is_file(source: SeveralSources) -> Callable[[int], bool]:
    """What tells of a place in a source whether one file lies there."""

    def is_file(place: int) -> bool:
        own = source.sources[place]
        return isinstance(own, MaybeOneFile) and own.is_one_file

    return is_file


def survey(items: Iterable[Item]) -> Survey:
    """Go through items once."""
    digest, count = hashlib.sha256(), 0
    for item in items:
        digest.update(os.fsencode(item.name) + b"\0")
        count += 1
    return Survey(count, digest.hexdigest())


class Contents:
    """A hash of items: their names, and what tells without reading that their bytes changed."""

    def __init__(self, source: Source) -> None:
        self._digest, self._stamp = hashlib.sha256(), stamps_of(source)
        self.count = 0

    def add(self, item: Item) -> None:
        """Take note of the next item."""
        self._digest.update(b"%s\0%s\0" % (self._stamp(item).encode(), os.fsencode(item.name)))
        self.count += 1

    @property
    def sha256(self) -> str:
        """Of all items so far."""
        return self._digest.hexdigest()


def content_sha256(source: Source, items: Iterable[Item]) -> str:
    """The hash of some items."""
    contents = Contents(source)
    for item in items:
        contents.add(item)
    return contents.sha256


class Listed:
    """Some items of a source as a source of their own."""

    def __init__(self, source: Any, items: Iterable[Item]) -> None:
        self._source, self._items = source, items
        self.classes: tuple[str, ...] = source.classes

    def items(self) -> Iterator[Item]:
        """Those items; once, if they came from an iterator."""
        return iter(self._items)

    def read(self, item: Item, preprocessing: Any = None) -> Any:
        """As the source itself."""
        return self._source.read(item, preprocessing)

    def blocks(self, item: Item, preprocessing: Any) -> Any:
        """As the source itself, of recordings."""
        return self._source.blocks(item, preprocessing)
