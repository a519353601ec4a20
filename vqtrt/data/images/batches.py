"""Images read ahead in worker threads and handed over in order, as batches in bounded memory.

Threads, not processes: Pillow leaves the interpreter's lock while it decodes, and a batch needs
no copy. A task reads a slice of a batch straight into the batch's array; one task an image would
cost more than a small image's decoding.
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images, ImageSource
from vqtrt.data.reading import OnError
from vqtrt.data.source import Item
from vqtrt.errors import ImageError

_AHEAD = 3


@dataclass
class Batch:
    """Images that were read, and the items that could not be."""

    items: list[Item]
    """One an image."""
    images: Images
    """(n, H, W, 3) uint8, or of several views (n, V, H, W, 3); n may be 0, if all are rejected."""
    rejected: list[tuple[Item, str]] = field(default_factory=list)
    """What could not be read, and why."""
    before: list[int] = field(default_factory=list)
    """How many of `items` come before each of `rejected`."""


def read_batches(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int,
    on_error: OnError = "stop",
    skip: int = 0,
) -> Generator[Batch]:
    """Batches of a source in its order, after its first `skip` items.

    Raises `ImageError` for the first image that cannot be read, after the batches before it; with
    `on_error="skip"` the image is listed in its batch's `rejected` instead.
    """
    items = itertools.islice(source.items(), skip, None)
    chunks = iter(lambda: list(itertools.islice(items, batch_size)), [])
    yield from read_chunks(source, preprocessing, chunks, workers=workers, on_error=on_error)


def read_chunks(
    source: ImageSource,
    preprocessing: Preprocessing,
    chunks: Iterable[Sequence[Item]],
    *,
    workers: int,
    on_error: OnError = "stop",
) -> Generator[Batch]:
    """One batch for each chunk of items, read a few chunks ahead."""
    pending: deque[_Pending] = deque()
    chunks = iter(chunks)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="vqtrt-read")
    try:
        while True:
            while len(pending) < _AHEAD and (chunk := next(chunks, None)) is not None:
                pending.append(_Pending(pool, source, preprocessing, chunk, workers))
            if not pending:
                return
            yield pending.popleft().result(on_error)
    finally:
        pool.shutdown(cancel_futures=True)


class _Pending:
    """A batch whose images are being read."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        source: ImageSource,
        preprocessing: Preprocessing,
        items: Sequence[Item],
        workers: int,
    ) -> None:
        self.items = items
        shape = (len(items), *preprocessing.shape)
        self.images = np.empty(shape, np.uint8)
        step = -(-len(items) // workers)
        self.tasks: list[Future[dict[int, str]]] = [
            pool.submit(self._read, source, preprocessing, range(start, start + step))
            for start in range(0, len(items), step)
        ]

    def _read(
        self, source: ImageSource, preprocessing: Preprocessing, rows: range
    ) -> dict[int, str]:
        errors = {}
        for row in range(rows.start, min(rows.stop, len(self.items))):
            try:
                self.images[row] = source.read(self.items[row], preprocessing)
            except ImageError as error:
                errors[row] = str(error)
        return errors

    def result(self, on_error: OnError) -> Batch:
        errors: dict[int, str] = {}
        for task in self.tasks:
            errors |= task.result()
        if not errors:
            return Batch(list(self.items), self.images)
        if on_error == "stop":
            raise ImageError(errors[min(errors)])
        good = [row for row in range(len(self.items)) if row not in errors]
        bad = sorted(errors)
        rejected = [(self.items[row], errors[row]) for row in bad]
        before = [row - place for place, row in enumerate(bad)]
        return Batch([self.items[row] for row in good], self.images[good], rejected, before)
