"""Codes of either kind, in one file or in a folder of shards, item by item; numpy only."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from vqtrt.formats.audio_codes import ClipCodes, ClipHeader
from vqtrt.formats.audio_codes import open_codes as open_file
from vqtrt.formats.codes import Codes, CodesHeader
from vqtrt.formats.shard_codes import ShardedCodes
from vqtrt.formats.shards import is_sharded

_TOGETHER = 4096
"""Items whose codes are read at once."""


class Coded(NamedTuple):
    """An item and its codes."""

    name: str
    label: int
    """-1 for none."""
    codes: NDArray[Any]
    """(h, w[, C]) of images, (t,) of audio."""
    samples: int | None = None
    """Of audio: its length."""


class FileCodes:
    """A codes file as `ShardedCodes` has a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._codes: Codes | ClipCodes = open_file(path)

    @property
    def header(self) -> CodesHeader | ClipHeader | None:
        """What made the codes; None for an array without a .json."""
        return self._codes.header

    def __len__(self) -> int:
        """Items that have codes."""
        codes = self._codes
        return len(codes) if isinstance(codes, ClipCodes) else len(codes.codes)

    def __getitem__(self, index: int | slice) -> Any:
        codes = self._codes
        if isinstance(codes, Codes):
            return codes.codes[index]
        if isinstance(index, slice):
            return [codes.clip(place) for place in range(*index.indices(len(self)))]
        return codes.clip(range(len(self))[index])

    def items(self, start: int = 0) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and numbers (label, and of audio codes and samples) of each item from `start` on."""
        codes = self._codes
        labels = codes.labels or (-1,) * len(codes.files)
        for place in range(start, len(codes.files)):
            more: tuple[int, ...] = ()
            if isinstance(codes, ClipCodes):
                more = (len(codes.clip(place)), codes.samples[place])
            yield codes.files[place], (labels[place], *more)

    def each(self) -> Iterator[Coded]:
        """All items with their codes."""
        for place, (name, numbers) in enumerate(self.items()):
            yield Coded(name, numbers[0], self[place], *numbers[2:])


class Shards(ShardedCodes):
    """`ShardedCodes` with items as `FileCodes` gives them."""

    def each(self) -> Iterator[Coded]:
        """All items with their codes, which are read some thousands at a time."""
        clips, start = isinstance(self.header, ClipHeader), 0
        items = self.items()
        while some := list(itertools.islice(items, _TOGETHER)):
            counts = [numbers[1] if clips else 1 for _, numbers in some]
            ends = list(itertools.accumulate(counts, initial=0))
            rows = self.array[start : start + ends[-1]]
            for (name, numbers), first, end in zip(some, ends, ends[1:], strict=False):
                codes = rows[first:end] if clips else rows[first]
                yield Coded(name, numbers[0], codes, *numbers[2:])
            start += ends[-1]


def open_codes(path: str | Path) -> FileCodes | Shards:
    """Open codes: a codes file (.npy), or a folder of shards.

    Args:
        path: What `vqtrt encode --out` wrote.

    Returns:
        Codes with a length. Of images, `codes[i]` is (h, w[, C]) and `codes[a:b]` is
        (b − a, h, w[, C]); of audio they are (t,) and a list of these. `items(start)` goes through
        names and labels. Nothing is loaded before it is asked for, so a folder of any number of
        shards costs no memory.

    Raises:
        VqtrtError: If there are no codes, or some of the shards are missing.
    """
    where = Path(path)
    return Shards(where) if is_sharded(where) or where.is_dir() else FileCodes(where)
