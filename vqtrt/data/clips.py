"""Recordings read ahead in worker threads and handed over in order, in bounded memory.

A short recording is read whole. Of a long one only the beginning is, and the rest block by block as
it is asked for, one block ahead: a file of hours never lies in memory.
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.audio import AudioPreprocessing
from vqtrt.data.source import Item
from vqtrt.data.speech import SpeechSource
from vqtrt.errors import AudioError

Audio = NDArray[np.float32]


class Clip(NamedTuple):
    """A recording that was read, or at least begun; exactly one of the three is there."""

    item: Item
    audio: Audio | None = None
    """(T,), the whole of a short one."""
    blocks: Iterator[Audio] | None = None
    """All of a long one, from the beginning; may raise `AudioError` where the file is damaged."""
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
    source: SpeechSource,
    preprocessing: AudioPreprocessing,
    *,
    most: int,
    ahead: int,
    workers: int,
    skip: int = 0,
) -> Generator[Clip, None, None]:
    """The recordings of a source in its order, after its first `skip` items.

    Those of up to `most` samples come whole; `ahead` are read before they are asked for. The blocks
    of a long one are to be taken before the next recording is asked for.
    """
    items = itertools.islice(source.items(), skip, None)
    pending: deque[Future[Clip]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="vqtrt-read")
    try:
        while True:
            for item in itertools.islice(items, ahead + 1 - len(pending)):
                pending.append(pool.submit(_begin, source, preprocessing, item, most))
            if not pending:
                return
            clip = pending.popleft().result()
            if clip.blocks is not None:
                clip = clip._replace(blocks=_one_ahead(pool, clip.blocks))
            yield clip
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(source: SpeechSource, preprocessing: AudioPreprocessing, item: Item, most: int) -> Clip:
    begun: list[Audio] = []
    samples = 0
    try:
        blocks = source.blocks(item, preprocessing)
        for block in blocks:
            begun.append(block)
            samples += len(block)
            if samples > most:
                return Clip(item, blocks=itertools.chain(begun, blocks))
    except AudioError as error:
        return Clip(item, error=error)
    return Clip(item, audio=np.concatenate([np.zeros(0, np.float32), *begun]))


def _one_ahead(pool: Executor, blocks: Iterator[Audio]) -> Iterator[Audio]:
    """The blocks, each of which is made while the one before it is used."""
    coming = pool.submit(next, blocks, None)
    while (block := coming.result()) is not None:
        coming = pool.submit(next, blocks, None)
        yield block
