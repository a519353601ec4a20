"""Codes of either kind, in one file or in a folder of shards, item by item; numpy only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqtrt.formats.audio_codes import ClipCodes, ClipHeader
from vqtrt.formats.audio_codes import open_codes as open_file
from vqtrt.formats.codes import Codes, CodesHeader
from vqtrt.formats.long_codes import LongCodes, open_long
from vqtrt.formats.shard_codes import Coded, ShardedCodes
from vqtrt.formats.shards import is_sharded


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


def open_codes(path: str | Path) -> FileCodes | LongCodes | ShardedCodes:
    """Open codes: a codes file (.npy), or a folder of shards.

    Args:
        path: What `vqtrt encode --out` wrote.

    Returns:
        Codes with a length. Of images, `codes[i]` is (h, w[, C]) and `codes[a:b]` is
        (b − a, h, w[, C]); of audio they are (t,) and a list of these. `items(start)` goes through
        names and labels. Nothing is loaded before it is asked for, so a folder of any number of
        shards, or a file of any number of rows, costs no memory.

    Raises:
        VqtrtError: If there are no codes, or some of the shards are missing.
    """
    where = Path(path)
    if is_sharded(where) or where.is_dir():
        return ShardedCodes(where)
    return open_long(where) or FileCodes(where)
