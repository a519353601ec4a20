"""What every collection offers: items in a fixed order, the same on every machine."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Item(NamedTuple):
    """One image or recording of a source, not read yet."""

    name: str
    """Path relative to the source with `/` between its parts, or `ARCHIVE[INDEX]`."""
    label: int
    """Index into the source's `classes`; -1 where there is none."""
    key: Any
    """What the source itself needs to find the item again; opaque to others."""


def file_stamp(path: Path) -> str:
    """What tells of a file without reading it whether its bytes changed: its size."""
    try:
        return str(path.stat().st_size)
    except OSError:
        return "unreadable"


@dataclass(frozen=True)
class Stored(ABC):
    """A file that lies in another one, such as a tar; what stands for it in place of a path."""

    name: str
    """Its own name or path."""

    @property
    def stem(self) -> str:
        """As of a path."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """As of a path."""
        return PurePosixPath(self.name).suffix

    @abstractmethod
    def read(self) -> bytes:
        """Its bytes; raises `OSError` if they cannot be read."""


@runtime_checkable
class Stamped(Protocol):
    """A source that can tell, without reading an item, that its bytes changed."""

    def stamp(self, item: Item) -> str:
        """Its size, for example."""


@runtime_checkable
class MaybeOneFile(Protocol):
    """A source that may be a single file, such as a line of a list of files."""

    @property
    def is_one_file(self) -> bool:
        """Whether it has one item, which is the file that the user named."""


def stamps_of(source: object) -> Callable[[Item], str]:
    """What gives the stamps of a source's items; empty ones if it has none."""
    return source.stamp if isinstance(source, Stamped) else lambda item: ""


class Source(Protocol):
    """Items in a fixed order, the same at every call."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels (images) or of the speakers (audio); empty if there are none."""

    def items(self) -> Iterator[Item]:
        """All items in order, one at a time: a folder of millions costs no memory."""
