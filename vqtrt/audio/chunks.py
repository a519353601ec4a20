"""Recordings, or their codes, cut into chunks, and chunks of one length in batches.

A graph sees `context` codes on either side of a code. A chunk therefore holds as many more than are
kept of it, so that what is kept is what the whole recording gives. Chunks of all recordings that
have one length on the grid of `grid_length` share batches, and each runs at its own length whatever
else there is: a recording's codes do not depend on its company, and a runtime sees few shapes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import Engine, Graph
from vqtrt.engines.lengths import grid_length
from vqtrt.engines.opened import Opened
from vqtrt.formats.audio_codes import codes_in

Audio = NDArray[np.float32]
"""(samples,), mono, in [-1, 1]."""

CHUNK_SAMPLES = 1 << 17
"""Samples of a chunk, without the context around it."""
CALL_SAMPLES = 1 << 20
"""Most samples in one call of a graph, padding included, whatever the batch size."""
HELD_CALLS = {False: 2, True: 8}
"""Calls' worth of samples that wait for others of their length, or are decoded together: more where
a batch costs the same if it is full."""
_EMPTY = np.zeros(0, np.uint8)


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
        self.made, self.data = made, _EMPTY


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


def chunk_codes(stride: int, context: int) -> int:
    """Codes that a graph is run on at most: so many that what is computed twice is little."""
    return max(CHUNK_SAMPLES // stride, 8 * context, 1) + 2 * context


class ChunkGraph:
    """A graph of an engine that chunks go through in batches; opened when it is first needed.

    `chunk` is the most codes of a chunk, with the context around it.
    """

    def __init__(self, engine: Engine, name: str, batch_size: int, context: int) -> None:
        self._engine, self._name, self._batch_size = engine, name, batch_size
        self._stride, self._context = engine.info.stride, context
        self._graphs: Opened[str, Graph] = Opened()

    @property
    def chunk(self) -> int:
        """Codes of a chunk, with those around it that are cut off."""
        return chunk_codes(self._stride, self._context)

    @property
    def held_samples(self) -> int:
        """Samples that may wait for others of their length, or are decoded together."""
        return HELD_CALLS[self._engine.shape_specialized] * CALL_SAMPLES

    @property
    def held_items(self) -> int:
        """Recordings that may wait for others of their length."""
        return 2 * HELD_CALLS[self._engine.shape_specialized] * self._batch_size

    def rows(self, length: int) -> int:
        """How many chunks of `length` codes go through the graph at once."""
        # A CPU gains nothing by more, and the memory of a call grows with it.
        most = CALL_SAMPLES if self._engine.shape_specialized else CALL_SAMPLES // 2
        return max(1, min(self._batch_size, most // (length * self._stride)))

    def filled(self, chunks: list[Chunk], length: int, end: NDArray[Any]) -> NDArray[Any]:
        """Chunks as rows of `length` codes, filled up with `end`, which stands for one code.

        Where a new shape costs, empty rows make every batch of that length the same size.
        """
        rows = self.rows(length) if self._engine.shape_specialized else len(chunks)
        out = np.tile(end, (rows, length))
        for row, chunk in zip(out, chunks, strict=False):
            row[: len(chunk.data)] = chunk.data
        return out

    def run(self, *arrays: NDArray[Any]) -> NDArray[Any]:
        """Run the engine's graph, which is opened once."""
        graph = self._graphs.get(self._name, partial(self._engine.open, self._name))
        return graph(*arrays)


class ChunkBatches:
    """Chunks that wait until there are enough of their length for a batch, which is then run.

    `run` gets a length in codes and the chunks, and finishes them.
    """

    def __init__(self, graph: ChunkGraph, run: Callable[[int, list[Chunk]], None]) -> None:
        self._longest, self._rows, self._run = graph.chunk, graph.rows, run
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
