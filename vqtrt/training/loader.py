"""Training batches as a function of (seed, step): a resumed run sees what an unbroken one saw.

Every epoch is a permutation drawn from (seed, epoch); a batch is a slice of it, and a process of
a distributed run takes its share of the slice. Nothing has to be saved to continue anywhere.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.config.images import DataConfig
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.images.batches import read_chunks
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images, ImageSource
from vqtrt.data.source import Item
from vqtrt.errors import VqtrtError
from vqtrt.training.skipped import Skipped


class Split(NamedTuple):
    """A source's items, divided by seed."""

    train: list[Item]
    held_out: list[Item]


def split_items(source: ImageSource | AudioSource, holdout: int, seed: int) -> Split:
    """Set `holdout` items aside (at most a tenth, at least one); both parts keep their order."""
    items = list(source.items())
    if len(items) < 2:
        raise VqtrtError("training needs at least 2 images or recordings: one is held out")
    count = max(1, min(holdout, len(items) // 10))
    chosen = np.random.default_rng([seed, 1]).choice(len(items), count, replace=False)
    held_out = np.zeros(len(items), bool)
    held_out[chosen] = True
    return Split(
        [item for item, out in zip(items, held_out, strict=True) if not out],
        [item for item, out in zip(items, held_out, strict=True) if out],
    )


class PatchedSource:
    """A source of training images in which the next image takes the place of a file skipped."""

    def __init__(self, source: ImageSource, skipped: Skipped) -> None:
        self._source, self._skipped = source, skipped
        self.classes = source.classes

    def items(self) -> Iterator[Item]:
        """As the source's."""
        return self._source.items()

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """As the source's, or the image that takes its place."""
        return self._skipped.read(item, lambda item: self._source.read(item, preprocessing))[1]


class CachedSource:
    """A source whose preprocessed images stay in memory once read, if the cache holds them all."""

    def __init__(self, source: ImageSource, count: int, config: DataConfig) -> None:
        self._source = source
        self._images: dict[str, Images] = {}
        size = config.preprocessing
        self._keep = count * size.height * size.width * 3 <= config.cache_mib * 2**20

    @property
    def classes(self) -> tuple[str, ...]:
        """As the source's."""
        return self._source.classes

    def items(self) -> Iterator[Item]:
        """As the source's."""
        return self._source.items()

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """As the source's, from memory the second time."""
        image = self._images.get(item.name)
        if image is None:
            image = self._source.read(item, preprocessing)
            if self._keep:
                self._images[item.name] = image
        return image


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 2, epoch]).permutation(count)


def batch_indices(
    count: int, batch_size: int, seed: int, step: int, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Rows of `count` items that process `rank` of `world` takes at `step` (counted from 0).

    Deterministic; every item once an epoch, the last incomplete batch of an epoch left out. With
    fewer items than a batch holds, a batch goes through several permutations.
    """
    if count >= batch_size:
        epoch, within = divmod(step, count // batch_size)
        rows = _epoch_order(count, seed, epoch)[within * batch_size : (within + 1) * batch_size]
    else:
        rng = np.random.default_rng([seed, 2, step])
        rounds = -(-batch_size // count)
        rows = np.concatenate([rng.permutation(count) for _ in range(rounds)])[:batch_size]
    return rows[rank::world]


def training_batches(
    source: ImageSource,
    items: Sequence[Item],
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    steps: range,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Images]:
    """The uint8 batch (batch_size / world, H, W, 3) of each of `steps`, read ahead in threads."""
    chunks = (
        [items[row] for row in batch_indices(len(items), batch_size, seed, step, rank, world)]
        for step in steps
    )
    for batch in read_chunks(source, config.preprocessing, chunks, workers=config.workers):
        yield batch.images
