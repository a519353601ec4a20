"""Drawing codes from a PixelCNN, one position at a time, over any engine.

A row graph runs once a row and a step graph once a position, with caches that stay where the
engine keeps them: a whole batch costs about as much as one or two forward passes, where a loop
over full passes would cost one a position. Buffers are bound once for a batch size and reused.

The noise is an input, counter-based and keyed by (seed, sample, position): sample 17 of seed 0 is
the same whatever the batch, the number asked for, or the engine.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.codes import codes_dtype
from vqtrt.engines import BoundGraph, Engine
from vqtrt.errors import VqtrtError

_LANE_BATCH = 4
"""Samples that a lane has at least: with fewer, a step is mostly what it costs to start one."""


@dataclass(frozen=True)
class Draw:
    """How codes are drawn from the distribution at a position."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely code."""
    top_k: int | None = None
    """Only the k most likely codes; None for all."""
    top_p: float = 1.0
    """Only the fewest codes that hold this share of the probability."""
    seed: int = 0

    def check(self, codebook_size: int) -> None:
        """Raise `VqtrtError` for a value out of range."""
        if not 0 <= self.temperature < float("inf"):
            raise VqtrtError(f"temperature {self.temperature}: must be 0 or more")
        if self.top_k is not None and not 1 <= self.top_k <= codebook_size:
            raise VqtrtError(f"top-k {self.top_k}: must be 1 to {codebook_size}, the codebook")
        if not 0 < self.top_p <= 1:
            raise VqtrtError(f"top-p {self.top_p}: must be above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise VqtrtError(f"seed {self.seed}: must be 0 to 2^63 - 1")


def noise(seed: int, samples: range, count: int) -> NDArray[np.float32]:
    """Uniform numbers inside (0, 1), `count` for each sample number: (n, count) float32.

    Philox keyed by (seed, sample), whose raw stream numpy guarantees never to change. 23 bits and
    a half, so that every number is exact in float32 and none is 0 or 1.
    """
    out = np.empty((len(samples), count), np.float32)
    for row, sample in enumerate(samples):
        key = np.array([seed, sample], np.uint64)
        raw = np.random.Philox(key=key).random_raw(count)
        out[row] = ((raw >> np.uint64(41)).astype(np.float64) + 0.5) * 2.0**-23
    return out


class Bind(Protocol):
    """`Engine.bind`."""

    def __call__(
        self,
        graph: str,
        sizes: Mapping[str, int],
        *,
        shared: Mapping[str, NDArray[Any]] | None = None,
        skip: Collection[str] = (),
    ) -> BoundGraph:
        """A graph with its buffers."""


class PixelCNNSampler:
    """A PixelCNN prior, bound for a batch size and a width of the grid."""

    def __init__(
        self, bind: Bind, name: str, codebook_size: int, batch_size: int, width: int
    ) -> None:
        self.codebook_size, self.batch_size = codebook_size, batch_size
        self._bind, self._name = bind, name
        self._sizes = {"batch": batch_size, "width": width}
        self._row = self._graph("row")
        self._steps: dict[str, BoundGraph] = {}

    def _graph(self, part: str, shared: Mapping[str, NDArray[Any]] | None = None) -> BoundGraph:
        graph = f"priors/{self._name}/{part}"
        return self._bind(graph, self._sizes, shared=shared, skip=("logits",))

    def _step(self, draw: Draw) -> BoundGraph:
        """The step graph that a draw needs, told what it asks for."""
        filtered = draw.top_k is not None or draw.top_p < 1
        part = "step_filtered" if filtered else "step"
        if part not in self._steps:
            self._steps[part] = self._graph(part, {"bias": self._row.outputs["bias"]})
        step = self._steps[part]
        step.inputs["temperature"][:] = draw.temperature
        if filtered:
            step.inputs["top_k"][:] = draw.top_k or self.codebook_size
            step.inputs["top_p"][:] = draw.top_p
        return step

    def sample(
        self,
        draw: Draw,
        samples: range,
        height: int,
        labels: NDArray[np.int32] | None = None,
        prefix: NDArray[Any] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> NDArray[Any]:
        """Codes (n, height, width, C) of the sample numbers `samples`, n at most the batch size.

        `labels` (n,); `prefix` (n, rows, width, C) are first rows, which are kept. `progress` is
        called after each position.
        """
        row, step, count = self._row, self._step(draw), len(samples)
        width, books = row.inputs["above"].shape[1:]
        nothing = self.codebook_size
        out = np.zeros((self.batch_size, height, width, books), np.int32)
        known = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            out[:count, :known] = prefix
        uniform = np.full((height, width, self.batch_size, books), 0.5, np.float32)
        drawn = noise(draw.seed, samples, height * width * books)
        uniform[:, :, :count] = drawn.reshape(count, height, width, books).transpose(1, 2, 0, 3)
        if labels is not None:
            row.inputs["labels"][:] = 0
            row.inputs["labels"][:count] = labels
        row.reset()
        above, code, column = row.inputs["above"], step.inputs["code"], step.inputs["column"]
        for r in range(height):
            above[:] = out[:, r - 1] if r else nothing
            row.run()
            if r < known:
                continue
            step.reset()
            code[:] = nothing
            for c in range(width):
                column[0] = c
                step.inputs["noise"][:] = uniform[r, c]
                step.run()
                code[:] = step.outputs["codes"]
                out[:, r, c] = code
                progress()
        return out[:count].astype(codes_dtype(nothing))


class BatchSampler:
    """A PixelCNN prior bound for a batch, which is drawn in as many lanes as the engine has.

    A step is too small to be shared by cores, but the samples of a batch do not depend on each
    other: each lane draws some of them, on one core, and none waits for another.
    """

    def __init__(
        self, engine: Engine, name: str, codebook_size: int, batch_size: int, width: int
    ) -> None:
        lanes = max(1, min(engine.lanes, batch_size // _LANE_BATCH))
        size = -(-batch_size // lanes)
        bind = partial(engine.bind, threads=1)
        self._starts = range(0, batch_size, size)
        self._size = size
        self._lanes = [
            PixelCNNSampler(bind, name, codebook_size, size, width) for _ in self._starts
        ]

    def sample(
        self,
        draw: Draw,
        samples: range,
        height: int,
        labels: NDArray[np.int32] | None = None,
        prefix: NDArray[Any] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> NDArray[Any]:
        """As `PixelCNNSampler.sample`; `progress` is called by the first lane."""
        parts = [slice(start, start + self._size) for start in self._starts if start < len(samples)]
        stop = threading.Event()

        def go_on() -> None:
            if stop.is_set():
                raise CancelledError

        def run(lane: int) -> NDArray[Any]:
            part = parts[lane]
            return self._lanes[lane].sample(
                draw,
                samples[part],
                height,
                None if labels is None else labels[part],
                None if prefix is None else prefix[part],
                progress if lane == 0 else go_on,
            )

        with ThreadPoolExecutor(len(parts)) as pool:
            others = [pool.submit(run, lane) for lane in range(1, len(parts))]
            try:
                # The first lane runs here, where an interrupt arrives.
                drawn = [run(0), *(other.result() for other in others)]
            finally:
                stop.set()
        return np.concatenate(drawn)
