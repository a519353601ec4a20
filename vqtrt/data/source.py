"""What every collection offers: items in a fixed order, the same on every machine."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol


class Item(NamedTuple):
    """One image or recording of a source, not read yet."""

    name: str
    """Path relative to the source with `/` between its parts, or `ARCHIVE[INDEX]`."""
    label: int
    """Index into the source's `classes`; -1 where there is none."""
    key: Any
    """What the source itself needs to find the item again; opaque to others."""


class Source(Protocol):
    """Items in a fixed order, the same at every call."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels (images) or of the speakers (audio); empty if there are none."""

    def items(self) -> Iterator[Item]:
        """All items in order, one at a time: a folder of millions costs no memory."""
