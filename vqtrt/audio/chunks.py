"""Recordings, or their codes, cut into chunks, and chunks of one length in batches.

A graph sees `context` codes on either side of a code. A chunk therefore holds as many more than are
kept of it, so that what is kept is what the whole recording gives. Chunks of all recordings that
have one length on the grid of `grid_length` share batches, and each runs at its own length whatever
else there is: a recording's codes do not depend on its company, and a runtime sees few shapes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.lengths import grid_length
from vqtrt.formats.audio_codes import codes_in

Audio = NDArray[np.float32]
_NOTHING = np.zeros(0, np.uint8)


@dataclass(eq=False)
class Chunk:
    """A part of a recording that is computed at once."""

    data: NDArray[Any]
    """Samples (n,), or codes (t,)."""
    kept: slice
    """Which of its codes are kept; the others are what is around them."""
    speaker: int = 0
    """Whose voice codes are decoded in."""
    made: NDArray[Any] | None = None
    """What became of it, without what is around: codes, or samples."""

    def finish(self, made: NDArray[Any]) -> None:
        """Keep what was made of it, and let go of what it was made from."""
        self.made, self.data = made, _NOTHING


class Span(NamedTuple):
    """Where a chunk's codes are in their recording."""

    start: int
    stop: int
    kept: slice
    """Counted from `start`."""


def spans(count: int, chunk: int, context: int) -> Iterator[Span]:
    """Where `count` codes are cut into chunks of `chunk` codes, of which the last may be shorter.

    Nowhere, of none.
    """
    if not count:
        return
    start = 0
    while start + chunk < count:
        yield Span(start, start + chunk, slice(context if start else 0, chunk - context))
        start += chunk - 2 * context
    yield Span(start, count, slice(context if start else 0, count - start))


def cut(blocks: Iterable[Audio], stride: int, chunk: int, context: int) -> Iterator[Chunk]:
    """The chunks of a recording that comes in blocks (n,), cut as `spans` says.

    The last one may end within a code. No samples make no chunk.
    """
    size, overlap = chunk * stride, 2 * context * stride
    buffer, filled, first = np.empty(0, np.float32), 0, 0
    for block in blocks:
        rest = block
        while len(rest):
            if filled == size:
                # More follows: the last codes do not know it yet, and are made once more.
                yield Chunk(buffer, slice(first, chunk - context))
                buffer, filled, first = buffer[size - overlap :].copy(), overlap, context
            taken = min(len(rest), size - filled)
            if filled + taken > len(buffer):
                room = np.empty(min(size, 2 * (filled + taken)), np.float32)
                room[:filled] = buffer[:filled]
                buffer = room
            buffer[filled : filled + taken] = rest[:taken]
            filled, rest = filled + taken, rest[taken:]
    if filled:
        yield Chunk(buffer[:filled], slice(first, codes_in(filled, stride)))


def first_samples(blocks: Iterable[Audio], count: int) -> Iterator[Audio]:
    """The first `count` samples of some blocks (n,)."""
    for block in blocks:
        if not count:
            return
        yield block[:count]
        count -= min(count, len(block))


class ChunkBatches:
    """Chunks that wait until there are enough of their length for a batch, which is then run.

    No batch is longer than `longest` codes; `rows` says how many chunks of a length go together,
    and `run` gets that length and the chunks, and finishes them.
    """

    def __init__(
        self, longest: int, rows: Callable[[int], int], run: Callable[[int, list[Chunk]], None]
    ) -> None:
        self._longest, self._rows, self._run = longest, rows, run
        self._waiting: dict[int, list[Chunk]] = {}

    def add(self, chunk: Chunk, count: int) -> None:
        """Let a chunk of `count` codes wait, or run the batch that it fills."""
        length = min(grid_length(count), self._longest)
        batch = self._waiting.setdefault(length, [])
        batch.append(chunk)
        if len(batch) >= self._rows(length):
            self._take(length)

    def run_with(self, chunk: Chunk) -> None:
        """Run the batch that a waiting chunk is in."""
        self._take(next(length for length, batch in self._waiting.items() if chunk in batch))

    def run_all(self) -> None:
        """Run whatever waits, the longest first."""
        for length in sorted(self._waiting, reverse=True):
            self._take(length)

    def _take(self, length: int) -> None:
        self._run(length, self._waiting.pop(length))
