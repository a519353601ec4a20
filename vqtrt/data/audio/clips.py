"""Recordings read ahead in worker threads and handed over in order, in bounded memory.

A recording of ordinary length is read whole. Of a long one only the beginning is, and the rest
block by block as it is asked for, one block ahead: a file of hours never lies in memory.

Notable: what is read ahead is bounded twice, in samples and in files that are open. A long
recording stays open until its turn, and a process may open 1,024 files or fewer.
"""

import itertools
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.source import Item
from vqtrt.errors import AudioError

Audio = NDArray[np.float32]

MOST_OPEN = 32
"""Recordings that are open at once, besides the one whose turn it is, whatever the workers."""


class Clip(NamedTuple):
    """A recording that was read, or at least begun; exactly one of the three is there."""

    item: Item
    audio: Audio | None = None
    """(T,), the whole of a short one."""
    blocks: Iterator[Audio] | None = None
    """All of a long one, from the beginning; may raise `AudioError` if the file is damaged."""
    error: AudioError | None = None
    """Why it cannot be read."""


class CountedBlocks:
    """The blocks of a recording, to go through once; `samples` of them have come so far."""

    def __init__(self, blocks: Iterator[Audio]) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[Audio]:
        for block in self._blocks:
            self.samples += len(block)
            yield block


def read_clips(
    source: AudioSource,
    preprocessing: AudioPreprocessing,
    *,
    most: int,
    ahead: int,
    workers: int,
    skip: int = 0,
) -> Generator[Clip, None, None]:
    """The recordings of a source in its order, after its first `skip` items.

    Those of up to `most` samples come whole. Up to `ahead` are read before they are asked for, and
    4·`most` samples of them, besides what the workers have begun. The blocks of a long one are to
    be taken before the next recording is asked for.
    """
    items = enumerate(itertools.islice(source.items(), skip, None))
    room = _Room(4 * most, MOST_OPEN)

    def begin(number: int, item: Item) -> tuple[Clip, int]:
        room.enter(number)
        clip, samples = _begin(source, preprocessing, item, most)
        room.keep(samples, still_open=clip.blocks is not None)
        return clip, samples

    pending: deque[Future[tuple[Clip, int]]] = deque()
    pool = ThreadPoolExecutor(min(workers, MOST_OPEN), thread_name_prefix="vqtrt-read")
    # Not of the pool: all of its threads may wait for room, until this recording is done.
    one = ThreadPoolExecutor(1, thread_name_prefix="vqtrt-read")
    try:
        for turn in itertools.count():
            for number, item in itertools.islice(items, ahead + 1 - len(pending)):
                pending.append(pool.submit(begin, number, item))
            if not pending:
                return
            room.await_turn(turn)
            clip, samples = pending.popleft().result()
            room.leave(samples, was_open=clip.blocks is not None)
            if clip.blocks is not None:
                clip = clip._replace(blocks=_one_ahead(one, clip.blocks))
            yield clip
    finally:
        room.close()
        pool.shutdown(cancel_futures=True)
        one.shutdown(cancel_futures=True)


class _Room:
    """What there is room for: samples that were read ahead, and recordings that are open.

    Before it opens a recording, a worker waits for room; but not for the one whose turn it is, so
    that nobody waits for a recording that is behind his own.
    """

    def __init__(self, samples: int, files: int) -> None:
        self._samples, self._files = samples, files
        self._turn, self._closed = 0, False
        self._changed = threading.Condition()

    def enter(self, number: int) -> None:
        """Wait until the recording `number` may be opened; `CancelledError` if it never may."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or number == self._turn or min(self._samples, self._files) > 0
            )
            if self._closed:
                raise CancelledError
            self._files -= 1

    def keep(self, samples: int, *, still_open: bool) -> None:
        """Count what was read of a recording, until it leaves."""
        with self._changed:
            self._samples -= samples
            self._files += not still_open
            self._changed.notify_all()

    def leave(self, samples: int, *, was_open: bool) -> None:
        """Let go of a recording."""
        with self._changed:
            self._samples += samples
            self._files += was_open
            self._changed.notify_all()

    def await_turn(self, number: int) -> None:
        """From now on, the recording `number` is waited for."""
        with self._changed:
            self._turn = number
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is opened."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _begin(
    source: AudioSource, preprocessing: AudioPreprocessing, item: Item, most: int
) -> tuple[Clip, int]:
    """A recording, and how many samples of it were read."""
    begun: list[Audio] = []
    samples = 0
    try:
        blocks = source.blocks(item, preprocessing)
        for block in blocks:
            begun.append(block)
            samples += len(block)
            if samples > most:
                return Clip(item, blocks=itertools.chain(begun, blocks)), samples
    except AudioError as error:
        return Clip(item, error=error), 0
    return Clip(item, audio=np.concatenate([np.zeros(0, np.float32), *begun])), samples


def _one_ahead(pool: Executor, blocks: Iterator[Audio]) -> Iterator[Audio]:
    """The blocks, each of which is made while the one before it is used."""
    coming = pool.submit(next, blocks, None)
    while (block := coming.result()) is not None:
        coming = pool.submit(next, blocks, None)
        yield block
