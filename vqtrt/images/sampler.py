"""Drawing codes from a PixelCNN, one position at a time, over any engine.

A row graph runs once a row and a step graph once a position, with caches that stay where the
engine keeps them: a whole batch costs about as much as one or two forward passes, where a loop
over full passes would cost one a position. Buffers are bound once for a batch size and reused.

The noise is an input, counter-based and keyed by (seed, sample, position): sample 17 of seed 0 is
the same whatever the batch, the number asked for, or the engine.

The rules of caches, which every engine's loop keeps:
- The row graph's caches are zero before the first row, and move on by one run a row: also for a row
  that is known, which is run without being drawn.
- The step graph's caches are zero before each row: a row sees the rows above through the `bias`
  that the row graph made, and nothing else. A whole row may therefore be one launch on a GPU.
- The code to the left of the first position, and those above the first row, are K, the start code.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import Engine, RowLoop
from vqtrt.engines.noise import noise
from vqtrt.engines.opened import Opened
from vqtrt.formats.codes import codes_dtype
from vqtrt.formats.sampling import SamplingParams

_STREAM_BATCH = 4
"""Samples that a stream has at least: with fewer, a step is mostly what it costs to start one."""


BindRows = Callable[..., RowLoop]
"""`Engine.bind_rows`."""


class Given(TypedDict, total=False):
    """What is given to samples of n grids."""

    labels: NDArray[np.int32] | None
    """(n,), if the prior is conditioned on labels."""
    prefix: NDArray[Any] | None
    """Codes (n, rows, width, C) of the first rows, which are kept."""
    progress: Callable[[], None]
    """Called for each position."""


def _ignore() -> None: ...


class PixelCNNSampler:
    """A PixelCNN prior, bound for a batch size and a width of the grid.

    Threads that share one sampler take turns.
    """

    def __init__(
        self,
        bind_rows: BindRows,
        name: str,
        codebook_size: int,
        batch_size: int,
        width: int,
    ) -> None:
        self.codebook_size, self.batch_size = codebook_size, batch_size
        self._name, self._bind_rows = name, bind_rows
        self._sizes = {"batch": batch_size, "width": width}
        self._loops: Opened[str, RowLoop] = Opened()

    def _loop(self, params: SamplingParams) -> RowLoop:
        """The loop for the sampling parameters, which are written into it."""
        step = params.step
        make = partial(
            self._bind_rows, self._name, step, self._sizes, start_code=self.codebook_size
        )
        loop = self._loops.get(step, make)
        params.write(loop.inputs, self.codebook_size)
        return loop

    def sample(
        self, params: SamplingParams, samples: range, height: int, **given: Unpack[Given]
    ) -> NDArray[Any]:
        """Codes (n, height, width, C) of the sample numbers `samples`, n at most the batch size."""
        with self._loops.lock:
            return self._sample(self._loop(params), params, samples, height, given)

    def _sample(
        self, loop: RowLoop, params: SamplingParams, samples: range, height: int, given: Given
    ) -> NDArray[Any]:
        labels, prefix = given.get("labels"), given.get("prefix")
        count = len(samples)
        above = loop.inputs["above"]
        width, books = above.shape[1:]
        start_code = self.codebook_size
        out = np.zeros((self.batch_size, height, width, books), np.int32)
        known = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            out[:count, :known] = prefix
        uniform = np.full((height, width, self.batch_size, books), 0.5, np.float32)
        drawn = noise(params.seed, samples, height * width * books)
        uniform[:, :, :count] = drawn.reshape(count, height, width, books).transpose(1, 2, 0, 3)
        if labels is not None:
            loop.inputs["labels"][:] = 0
            loop.inputs["labels"][:count] = labels
        loop.begin()
        for r in range(height):
            above[:] = out[:, r - 1] if r else start_code
            if r < known:
                loop.skip()
                continue
            loop.inputs["noise"][:] = uniform[r]
            loop.draw(given.get("progress", _ignore))
            out[:, r] = loop.codes.swapaxes(0, 1)
        return out[:count].astype(codes_dtype(start_code))


class BatchSampler:
    """A PixelCNN prior bound for a batch, which is drawn in as many streams as the engine has.

    A step is too small to be shared by cores, but the samples of a batch do not depend on each
    other: each stream draws some of them, on one core, and none waits for another.
    """

    def __init__(
        self, engine: Engine, name: str, codebook_size: int, batch_size: int, width: int
    ) -> None:
        streams = max(1, min(engine.num_streams, batch_size // _STREAM_BATCH))
        size = -(-batch_size // streams)
        largest = engine.largest_batch(f"priors/{name}/step", {"width": width})
        self._size = size = min(size, largest or size)
        self._starts = range(0, batch_size, size)
        bind = partial(engine.bind_rows, threads=1)
        self._streams = [
            PixelCNNSampler(bind, name, codebook_size, size, width) for _ in self._starts
        ]

    def sample(
        self, params: SamplingParams, samples: range, height: int, **given: Unpack[Given]
    ) -> NDArray[Any]:
        """As `PixelCNNSampler.sample`; `progress` is called by the first stream."""
        labels, prefix = given.get("labels"), given.get("prefix")
        progress = given.get("progress", _ignore)
        parts = [slice(start, start + self._size) for start in self._starts if start < len(samples)]
        stop = threading.Event()

        def go_on() -> None:
            if stop.is_set():
                raise CancelledError

        def run(stream: int) -> NDArray[Any]:
            part = parts[stream]
            return self._streams[stream].sample(
                params,
                samples[part],
                height,
                labels=None if labels is None else labels[part],
                prefix=None if prefix is None else prefix[part],
                progress=progress if stream == 0 else go_on,
            )

        with ThreadPoolExecutor(len(parts)) as pool:
            others = [pool.submit(run, stream) for stream in range(1, len(parts))]
            try:
                # The first stream runs here, where an interrupt arrives.
                drawn = [run(0), *(other.result() for other in others)]
            finally:
                stop.set()
        return np.concatenate(drawn)
