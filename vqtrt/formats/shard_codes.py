"""Reading a folder of shards: as one array, checked, or merged into one codes file.

Notable: arrays are memory-mapped when they are asked for, and names are read shard by shard, so
that a folder of 100 million rows costs no memory.
"""

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.npy import open_npy
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes, ClipHeader, read_clip_codes
from vqtrt.formats.codes import Codes, Numbers, Rejected, read_codes
from vqtrt.formats.codes_writer import ClipWriter, CodesWriter
from vqtrt.formats.parquet import read_codes_column
from vqtrt.formats.shards import (
    Job,
    ShardDone,
    damaged,
    done_shards,
    is_sharded,
    lines_path,
    read_job,
    read_lines,
    rows_path,
    write_index,
)
from vqtrt.system.files import open_file

C = TypeVar("C", Codes, ClipCodes)
_OPEN = 64
"""Shards that are memory-mapped at once."""
_READ = 4
"""Shards of Parquet that are in memory at once."""
_HASHED = 16 << 20
_TOGETHER = 4096
"""Items whose codes are read at once."""


def complete_shards(folder: Path, *, check: bool = False) -> tuple[Job, dict[int, ShardDone]]:
    """The job of a folder and all its shards; with `check`, every file is hashed and counted.

    Raises `VqtrtError` that names what is missing, of another job, cut or damaged.
    """
    job = read_job(folder)
    done = done_shards(folder, job)
    missing = [shard.number for shard in job.shards if shard.number not in done]
    if missing:
        few = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise VqtrtError(
            f"{folder}: {len(missing)} of {len(job.shards)} shards are missing ({few}); run the "
            "command that makes them once more"
        )
    for shard in job.shards:
        end = done[shard.number]
        if end.rows + end.rejected != shard.items:
            raise damaged(folder, shard.number, f"{end.rows + end.rejected} of its items")
        if check:
            _check_shard(folder, job, shard.number, end)
    return job, done


def _check_shard(folder: Path, job: Job, number: int, end: ShardDone) -> None:
    array, lines = rows_path(folder, job, number), lines_path(folder, number)
    digest = hashlib.sha256()
    try:
        with open_file(array) as file:
            while block := file.read(_HASHED):
                digest.update(block)
    except OSError as error:
        raise damaged(
            folder, number, f"no {array.suffix} that can be read ({error.strerror})"
        ) from error
    if digest.hexdigest() != end.sha256:
        raise damaged(folder, number, f"another {array.suffix} than its last line says")
    listed = hashlib.sha256()
    with open_file(lines) as file:
        line = file.readline()
        for following in file:
            listed.update(line)
            line = following
    if listed.hexdigest() != end.lines_sha256:
        raise damaged(folder, number, "other items than its last line says")


def _rows_of(job: Job, numbers: Numbers) -> int:
    """Rows of an item, whose line was checked."""
    return job.header.rows_of(numbers) or 0


def _open(folder: Path, job: Job, number: int) -> NDArray[Any]:
    """The rows of a shard: a .npy is memory-mapped, a .parquet read."""
    path = rows_path(folder, job, number)
    array = open_npy(path) if job.format == "npy" else read_codes_column(path, job.header)
    if array.dtype != job.header.dtype or array.shape[1:] != job.header.row_shape:
        raise damaged(folder, number, f"rows {array.dtype} {array.shape[1:]}")
    return array


def _count(folder: Path, job: Job, number: int, done: ShardDone) -> int:
    """The rows of a shard."""
    if job.format == "npy":
        return len(_open(folder, job, number))
    if not isinstance(job.header, ClipHeader):
        return done.rows
    items = read_lines(folder, job, number)
    return sum(_rows_of(job, known) for _, known in items if not isinstance(known, str))


class ShardedArray:
    """The rows of all shards as one array that is never in memory as a whole.

    It has a shape, a dtype and a length; an index gives a row, a slice a copy of rows.
    """

    def __init__(self, folder: Path, job: Job, rows: list[int]) -> None:
        self._folder, self._job = folder, job
        self._ends = [0, *accumulate(rows)]
        self._arrays: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self.dtype = job.header.dtype
        self.shape = (self._ends[-1], *job.header.row_shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> NDArray[Any]: ...

    def __getitem__(self, index: int | slice) -> NDArray[Any]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._rows(start, max(start, stop))[::step] if step > 0 else self[:][index]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row: NDArray[Any] = self._rows(place, place + 1)[0]
        return row

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        """Copies of consecutive rows."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        number, filled = bisect_right(self._ends, start) - 1, 0
        while filled < len(out):
            first = start + filled - self._ends[number]
            part = self._array(number)[first : first + len(out) - filled]
            out[filled : filled + len(part)] = part
            number, filled = number + 1, filled + len(part)
        return out

    def _array(self, number: int) -> NDArray[Any]:
        if number not in self._arrays:
            if len(self._arrays) >= (_OPEN if self._job.format == "npy" else _READ):
                self._arrays.popitem(last=False)
            self._arrays[number] = _open(self._folder, self._job, number)
        return self._arrays[number]


class Coded(NamedTuple):
    """An item and its codes."""

    name: str
    label: int
    """-1 for none."""
    codes: NDArray[Any]
    """(h, w[, C]) of images, (t,) of audio."""
    samples: int | None = None
    """Of audio: its length."""


class ShardedCodes:
    """The codes in a folder of shards: `codes[i]` of an item, `codes[a:b]` of several.

    `header` says what made them. Of images an item is (h, w[, C]) and a slice (n, h, w[, C]); of
    audio an item is (t,), and a slice is a list of these. Raises `VqtrtError` if shards are
    missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        self.job, done = complete_shards(self.path)
        self.header = self.job.header
        self._ends = [0, *accumulate(done[number].rows for number in range(len(done)))]
        counts = [_count(self.path, self.job, number, done[number]) for number in range(len(done))]
        self.array = ShardedArray(self.path, self.job, counts)
        self._first = [0, *accumulate(counts)]
        self._starts: OrderedDict[int, list[int]] = OrderedDict()

    def __len__(self) -> int:
        """Items that have codes."""
        return self._ends[-1]

    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(self.header, ClipHeader):
            return self.array[index]
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = bisect_right(self._ends, place) - 1
        starts = self._starts_of(number)
        own = place - self._ends[number]
        return self.array[starts[own] : starts[own + 1]]

    def _starts_of(self, number: int) -> list[int]:
        """Where each clip of a shard begins in the array, and where the last one ends."""
        if number not in self._starts:
            if len(self._starts) >= _OPEN:
                self._starts.popitem(last=False)
            lengths = (_rows_of(self.job, known) for _, known in self._items_of(number))
            self._starts[number] = list(accumulate(lengths, initial=self._first[number]))
        return self._starts[number]

    def each(self) -> Iterator[Coded]:
        """All items with their codes, which are read some thousands at a time."""
        clips, start = isinstance(self.header, ClipHeader), 0
        items = self.items()
        while some := list(islice(items, _TOGETHER)):
            counts = (_rows_of(self.job, known) for _, known in some)
            ends = list(accumulate(counts, initial=start))
            rows = self.array[start : ends[-1]]
            for (name, known), (first, end) in zip(some, pairwise(ends), strict=True):
                codes = rows[first - start : end - start] if clips else rows[first - start]
                yield Coded(name, known[0], codes, *known[2:])
            start = ends[-1]

    def items(self, start: int = 0) -> Iterator[tuple[str, Numbers]]:
        """Name and numbers (label, and of audio codes and samples) of each item from `start` on."""
        number = bisect_right(self._ends, start) - 1
        skip = start - self._ends[number]
        for shard in range(number, len(self.job.shards)):
            for own, item in enumerate(self._items_of(shard)):
                if shard > number or own >= skip:
                    yield item

    def rejected(self) -> Iterator[Rejected]:
        """The items without codes."""
        for shard in self.job.shards:
            for name, known in read_lines(self.path, self.job, shard.number):
                if isinstance(known, str):
                    yield Rejected(name, known)

    def _items_of(self, number: int) -> Iterator[tuple[str, Numbers]]:
        for name, known in read_lines(self.path, self.job, number):
            if not isinstance(known, str):
                yield name, known


def read_sharded(folder: Path) -> Codes | ClipCodes:
    """A folder of shards as the codes file that `merge` would make; names are in memory."""
    codes = ShardedCodes(folder)
    items, array, header = list(codes.items()), codes.array, codes.header
    files, rejected = tuple(name for name, _ in items), tuple(codes.rejected())
    labels = tuple(numbers[0] for _, numbers in items) if header.classes else ()
    rows: Any = array  # an array to all who take slices of it
    if not isinstance(header, ClipHeader):
        return Codes(folder, rows, header, files, labels, rejected)
    offsets = tuple(accumulate((numbers[1] for _, numbers in items), initial=0))
    samples = tuple(numbers[2] for _, numbers in items)
    return ClipCodes(folder, array[:], offsets, header, files, labels, samples, rejected)


def read_images(path: Path) -> Codes:
    """Codes of images in one file or in a folder of shards; raises as `read_codes`."""
    return _of_kind(read_sharded(path), Codes) if is_sharded(path) else read_codes(path)


def read_clips(path: Path) -> ClipCodes:
    """Codes of clips in one file or in a folder of shards; raises as `read_clip_codes`."""
    return _of_kind(read_sharded(path), ClipCodes) if is_sharded(path) else read_clip_codes(path)


def _of_kind(codes: Codes | ClipCodes, kind: type[C]) -> C:
    if isinstance(codes, kind):
        return codes
    found, wanted = ("audio", "images") if kind is Codes else ("images", "audio")
    raise VqtrtError(
        f"{codes.path}: holds codes of {found}, and the model is of {wanted}; give others"
    )


def merge(folder: Path, to: Path | None = None, *, check: bool = False) -> tuple[int, int]:
    """Write `index.json`, and with `to` one codes file; gives the items with and without codes.

    Raises `VqtrtError` as `complete_shards`, and as the writer of codes.
    """
    job, done = complete_shards(folder, check=check or to is not None)
    write_index(folder, job, done)
    if to is not None:
        _write_merged(folder, job, to)
    return sum(end.rows for end in done.values()), sum(end.rejected for end in done.values())


def _write_merged(folder: Path, job: Job, to: Path) -> None:
    header: Any = job.header
    kind: Any = ClipWriter if isinstance(header, ClipHeader) else CodesWriter
    with kind(to, header=header, resume=False) as writer:
        for shard in job.shards:
            array, start = _open(folder, job, shard.number), 0
            items: list[tuple[str, Numbers]] = []
            for name, known in read_lines(folder, job, shard.number):
                if isinstance(known, str) or len(items) == _TOGETHER:
                    start, items = _write_items(writer, job, items, array, start), []
                if isinstance(known, str):
                    writer.reject(name, known)
                else:
                    items.append((name, known))
            _write_items(writer, job, items, array, start)
            writer.commit()
        writer.finish()


def _write_items(
    writer: Any, job: Job, items: list[tuple[str, Numbers]], array: NDArray[Any], start: int
) -> int:
    """Write items whose rows begin at `start`; returns where the next begin."""
    if not items:
        return start
    names, labels = [name for name, _ in items], [known[0] for _, known in items]
    starts = list(accumulate((_rows_of(job, known) for _, known in items), initial=start))
    if isinstance(job.header, ClipHeader):
        clips = [array[begin:end] for begin, end in pairwise(starts)]
        writer.write(names, labels, clips, [known[2] for _, known in items])
    else:
        writer.write(names, labels, array[start : starts[-1]])
    return starts[-1]
