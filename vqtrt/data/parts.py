"""The parts of a source: a folder, a tar, an array. A shard lies within one part."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from vqtrt.data.several import SeveralSources
from vqtrt.data.source import Item, Source, stamps_of


class Part(NamedTuple):
    """Items of a source that lie in one place."""

    name: str
    items: Callable[[], Iterator[Item]]


class Survey(NamedTuple):
    """What a part holds, without reading it."""

    items: int
    sha256: str
    """Of the names in their order."""


def parts_of(source: Source, root: str) -> list[Part]:
    """The parts in their order; `root` is the name of a source that is one part."""
    if not isinstance(source, SeveralSources):
        return [Part(root, source.items)]
    return [Part(path, partial(source.items_of, at)) for at, path in enumerate(source.paths)]


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
