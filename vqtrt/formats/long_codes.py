"""A codes file of millions of items: its JSON is gone through line by line, never held in memory.

Notable: it has an element of a list on each line, as `journal.write_json` writes it. A JSON in
another form, which somebody wrote anew, is read as a whole (`formats/codes.py`).
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.npy import open_npy
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipHeader
from vqtrt.formats.codes import (
    CodesHeader,
    is_too_long,
    json_limit,
    parse_header,
    take_version,
)
from vqtrt.formats.journal import MAX_LINE_BYTES
from vqtrt.formats.shard_codes import Coded
from vqtrt.system.files import open_file

LONG = 64 << 20
"""Bytes of a JSON from which on it is not read as a whole."""
_MAX_HEAD = 32 << 20
_SCANNED = 1 << 20
_TOGETHER = 4096


class LongCodes:
    """A codes file as `FileCodes` has one, without its lists in memory.

    Raises `VqtrtError` if the two files do not belong together.
    """

    def __init__(self, path: Path, lists: "_Lists") -> None:
        self.path, self._lists = path, lists
        head = dict(lists.head)
        rows = head.pop("rows", None)
        kind: Any = ClipHeader if head.get("kind") == "speech" else CodesHeader
        self.header: CodesHeader | ClipHeader = parse_header(kind, head, lists.path)
        self._array = open_npy(path)
        self._offsets: NDArray[np.int64] | None = None
        if isinstance(self.header, ClipHeader):
            self._offsets = np.fromiter(lists.each("offsets"), np.int64)
        counted = len(self._array) if self._offsets is None else len(self._offsets) - 1
        ends = len(self._array) if self._offsets is None else int(self._offsets[-1])
        fits = (
            type(rows) is int
            and rows == counted
            and ends == len(self._array)
            and self.header.row_shape == self._array.shape[1:]
            and (self._offsets is None or bool((np.diff(self._offsets) > 0).all()))
        )
        if not fits:
            raise VqtrtError(
                f"{lists.path}: does not describe {path.name}, which has {self._array.shape}; "
                "bring the two files of one run together"
            )

    def __len__(self) -> int:
        """Items that have codes."""
        return len(self._array) if self._offsets is None else len(self._offsets) - 1

    def __getitem__(self, index: int | slice) -> Any:
        if self._offsets is None:
            return self._array[index]
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._array[self._offsets[place] : self._offsets[place + 1]]

    def items(self, start: int = 0) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and numbers (label, and of audio codes and samples) of each item from `start` on.

        Raises `VqtrtError` for an element that no item has, and if there are too few.
        """
        lists, header = self._lists, self.header
        names = lists.each("files")
        labels = lists.each("labels") if header.classes else iter([-1] * 0)
        samples = lists.each("samples") if self._offsets is not None else iter(())
        for place in range(len(self)):
            name = next(names, None)
            label = next(labels, None) if header.classes else -1
            if type(name) is not str or is_too_long(name):
                raise self._broken("files", place)
            if type(label) is not int or not -1 <= label < max(1, len(header.classes)):
                raise self._broken("labels", place)
            more: tuple[int, ...] = ()
            if self._offsets is not None:
                count = next(samples, None)
                length = int(self._offsets[place + 1] - self._offsets[place])
                if type(count) is not int or header.rows_of((label, length, count)) is None:
                    raise self._broken("samples", place)
                more = (length, count)
            if place >= start:
                yield name, (label, *more)

    def each(self) -> Iterator[Coded]:
        """All items with their codes."""
        items, place = self.items(), 0
        while some := list(islice(items, _TOGETHER)):
            codes = self[place : place + len(some)]
            for (name, numbers), one in zip(some, codes, strict=True):
                yield Coded(name, numbers[0], one, *numbers[2:])
            place += len(some)

    def _broken(self, name: str, place: int) -> VqtrtError:
        return VqtrtError(
            f"{self._lists.path}: '{name}' has no such element {place} as an item has; encode "
            "again, or remove the JSON"
        )


class _Lists:
    """The lists of a JSON, by the place in the file where each begins."""

    def __init__(self, path: Path, head: dict[str, Any], starts: dict[str, int]) -> None:
        self.path, self.head, self._starts = path, head, starts

    def each(self, name: str) -> Iterator[Any]:
        """The elements of a list in order; ends at what is none."""
        if name not in self._starts:
            return
        with open_file(self.path) as file:
            file.seek(self._starts[name])
            while line := file.readline(MAX_LINE_BYTES):
                element = line.rstrip(b"\n").rstrip(b",")
                last = line.endswith((b"],\n", b"]\n"))
                if last:
                    element = element[:-1]
                if element:
                    try:
                        yield json.loads(element)
                    except (ValueError, RecursionError):
                        return
                if last:
                    return


def open_long(path: Path) -> LongCodes | None:
    """A codes file whose JSON is long, and as we write it; None for another one."""
    json_path = path.with_suffix(".json")
    try:
        size = json_path.stat().st_size
        if size < LONG:
            return None
        lists = _find_lists(json_path)
    except OSError:
        return None
    if lists is None:
        return None
    codes = LongCodes(path, lists)
    if size > json_limit(len(codes)):
        raise VqtrtError(f"{json_path}: larger than the most for {len(codes)} rows; encode again")
    return codes


def _find_lists(path: Path) -> _Lists | None:
    """The head and the lists of a JSON; None if it has another form."""
    with open_file(path) as file:
        text, start = file.read(_MAX_HEAD), b',\n"files": ['
        end = text.find(start)
        try:
            head = json.loads(text[:end] + b"}") if end > 0 else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(head, dict):
            return None
        take_version(head, path)
        starts = {"files": end + len(start)}
        for name in ("labels", "offsets", "samples", "rejected"):
            pattern = b'],\n"%s": [' % name.encode()
            if (place := _find(file, pattern, max(starts.values()))) >= 0:
                starts[name] = place + len(pattern)
    return _Lists(path, head, starts) if "rejected" in starts else None


def _find(file: Any, pattern: bytes, start: int) -> int:
    """Where a pattern is in a file from a place on; -1 if it is not there."""
    at, kept = start, b""
    file.seek(start)
    while block := file.read(_SCANNED):
        text = kept + block
        if (place := text.find(pattern)) >= 0:
            return int(at - len(kept) + place)
        kept = text[-len(pattern) + 1 :]
        at += len(block)
    return -1
