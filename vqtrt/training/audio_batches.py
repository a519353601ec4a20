"""Training batches of recordings: crops by (seed, step), as `loader.py` for images."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from vqtrt.config.audio import SpeechDataConfig
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.source import Item
from vqtrt.training.loader import batch_indices
from vqtrt.training.skipped import Skipped

Audio = NDArray[np.float32]
T = TypeVar("T")


class Crops(NamedTuple):
    """A batch of crops with what is around them."""

    audio: Audio
    """(n, (codes + 2·margin)·stride), zeros outside of the clips."""
    valid_mask: NDArray[np.bool_]
    """(n, codes + 2·margin): codes that are inside of their clip."""
    speakers: NDArray[np.int64]
    """(n,); the number of speakers stands for none."""


class CropShape(NamedTuple):
    """What a crop is made of."""

    codes: int
    """That are scored."""
    margin: int
    """Codes on either side that these look at."""
    stride: int
    """Samples a code."""


class CachedClips:
    """A source whose recordings stay in memory once read, as 16 bit, until the cache is full.

    Safe to read from several threads.
    """

    def __init__(self, source: AudioSource, config: SpeechDataConfig) -> None:
        self.source, self.config = source, config
        self._kept: dict[str, NDArray[np.int16]] = {}
        self._room = config.cache_mib * 2**20
        self._lock = Lock()

    def read(self, item: Item) -> Audio:
        """A recording, float32 (T,) on the grid of 16 bits."""
        kept = self._kept.get(item.name)
        if kept is None:
            audio = self.source.read(item, self.config.preprocessing)
            kept = np.rint(np.clip(audio, -1, 1) * 32767).astype(np.int16)
            with self._lock:
                if kept.nbytes <= self._room and item.name not in self._kept:
                    self._room -= kept.nbytes
                    self._kept[item.name] = kept
        return kept.astype(np.float32) / np.float32(32767)


def training_crops(
    clips: CachedClips,
    items: Sequence[Item],
    pieces: NDArray[np.int64],
    shape: CropShape,
    *,
    skipped: Skipped | None = None,
    batch_size: int,
    seed: int,
    steps: range,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Crops]:
    """The crops of each of `steps`, one step ahead; `data.workers` threads read recordings.

    `pieces` are indices into `items`, each as often as crops fit into the recording, so that all
    parts of the data are seen equally often. As many recordings are in memory as there are threads,
    and what the cache holds: a batch of long ones is never there as a whole. Another takes the
    place of one that is `skipped`; without it, `AudioError` is raised for the first.
    """
    workers = clips.config.workers

    def take(item: Item) -> tuple[Item, Audio]:
        return (item, clips.read(item)) if skipped is None else skipped.read(item, clips.read)

    def make(step: int) -> Crops:
        chosen = pieces[batch_indices(len(pieces), batch_size, seed, step, rank, world)]
        rng = np.random.default_rng([seed, 5, step, rank])
        # One after the other, however many threads read: `rng` draws in the order of the batch.
        drawn, labels = [], []
        for item, audio in _read_ahead(readers, take, [items[i] for i in chosen], workers):
            drawn.append(crop(audio, shape, rng))
            labels.append(item.label)
        none = len(clips.source.classes)
        return Crops(
            np.stack([audio for audio, _ in drawn]),
            np.stack([valid_mask for _, valid_mask in drawn]),
            np.array([none if label < 0 else label for label in labels], np.int64),
        )

    with (
        ThreadPoolExecutor(workers, thread_name_prefix="vqtrt-read") as readers,
        ThreadPoolExecutor(1) as pool,
    ):
        ahead = None
        for step in steps:
            batch = ahead.result() if ahead else make(step)
            ahead = pool.submit(make, step + 1) if step + 1 in steps else None
            yield batch


def _read_ahead(
    pool: Executor, take: Callable[[Item], T], items: Sequence[Item], ahead: int
) -> Iterator[T]:
    """What `take` gives of some items, in their order; `ahead` are read at a time."""
    left = iter(items)
    pending: deque[Future[T]] = deque()
    while True:
        for item in itertools.islice(left, ahead - len(pending)):
            pending.append(pool.submit(take, item))
        if not pending:
            return
        yield pending.popleft().result()


def crop(
    audio: Audio, shape: CropShape, rng: np.random.Generator | None = None
) -> tuple[Audio, NDArray[np.bool_]]:
    """A crop of a recording (T,), begun at a code drawn by `rng` (without one, at the first).

    As `Crops` has it, without the axis n.
    """
    codes = -(-len(audio) // shape.stride)
    room = max(0, codes - shape.codes)
    start = 0 if rng is None else int(rng.integers(room + 1))
    first, last = start - shape.margin, start + shape.codes + shape.margin
    out = np.zeros((last - first) * shape.stride, np.float32)
    low, high = max(0, first * shape.stride), min(len(audio), last * shape.stride)
    out[low - first * shape.stride : high - first * shape.stride] = audio[low:high]
    places = np.arange(first, last)
    return out, (places >= 0) & (places < codes)
