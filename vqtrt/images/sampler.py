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
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import BoundGraph, Engine
from vqtrt.engines.noise import noise
from vqtrt.engines.opened import Opened
from vqtrt.formats.codes import codes_dtype
from vqtrt.formats.sampling import SamplingParams

_LANE_BATCH = 4
"""Samples that a lane has at least: with fewer, a step is mostly what it costs to start one."""


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


class RowLoop(Protocol):
    """A prior's row graph and step graph, bound to draw row after row of samples."""

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Arrays to write to: `above` and `noise` (width, N, C) before each row.

        And before `begin` the sampling parameters and `labels`, if the graphs have them.
        """

    @property
    def codes(self) -> NDArray[Any]:
        """(width, N, C), to read after `draw`."""

    def begin(self) -> None:
        """Begin samples: forget the rows before."""

    def skip(self) -> None:
        """Go past a row that is known."""

    def draw(self, progress: Callable[[], None]) -> None:
        """Draw a row; `progress` is called once for each position."""


BindLoop = Callable[[str, str, Mapping[str, int], int], RowLoop]
"""`bind_loop(prior, step, sizes, nothing)`, which an engine may have: `step` is `step` or
`step_filtered`, and `nothing` the code that stands for none."""


class HostLoop:
    """As `RowLoop`, position by position, over any engine; what other loops are compared with."""

    def __init__(
        self, bind: Bind, prior: str, step: str, sizes: Mapping[str, int], nothing: int
    ) -> None:
        self._row = bind(f"priors/{prior}/row", sizes)
        shared = {"bias": self._row.outputs["bias"]}
        self._step = bind(f"priors/{prior}/{step}", sizes, shared=shared, skip=("logits",))
        self._nothing = nothing
        self.codes = np.zeros((sizes["width"], *self._step.outputs["codes"].shape), np.int32)
        self._noise = np.zeros(self.codes.shape, np.float32)
        self.inputs = {**self._step.inputs, **self._row.inputs, "noise": self._noise}

    def begin(self) -> None:
        """Begin samples: forget the rows before."""
        self._row.reset()

    def skip(self) -> None:
        """Go past a row that is known."""
        self._row.run()

    def draw(self, progress: Callable[[], None]) -> None:
        """Draw a row; `progress` is called once for each position."""
        step = self._step
        code, column, noise = (step.inputs[name] for name in ("code", "column", "noise"))
        drawn = step.outputs["codes"]
        self._row.run()
        step.reset()
        code[:] = self._nothing
        for c in range(len(self.codes)):
            column[0] = c
            noise[:] = self._noise[c]
            step.run()
            code[:] = self.codes[c] = drawn
            progress()


class PixelCNNSampler:
    """A PixelCNN prior, bound for a batch size and a width of the grid.

    Rows are drawn by the engine's own loop, where `bind_loop` is given. Threads that share one
    sampler take turns.
    """

    def __init__(
        self,
        bind: Bind,
        name: str,
        codebook_size: int,
        batch_size: int,
        width: int,
        bind_loop: BindLoop | None = None,
    ) -> None:
        self.codebook_size, self.batch_size = codebook_size, batch_size
        self._name = name
        self._bind_loop: BindLoop = bind_loop or partial(HostLoop, bind)
        self._sizes = {"batch": batch_size, "width": width}
        self._loops: Opened[str, RowLoop] = Opened()

    def _loop(self, draw: SamplingParams) -> RowLoop:
        """The loop that a draw needs, told what it asks for."""
        step = draw.step
        make = partial(self._bind_loop, self._name, step, self._sizes, self.codebook_size)
        loop = self._loops.get(step, make)
        draw.write(loop.inputs, self.codebook_size)
        return loop

    def sample(
        self,
        draw: SamplingParams,
        samples: range,
        height: int,
        labels: NDArray[np.int32] | None = None,
        prefix: NDArray[Any] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> NDArray[Any]:
        """Codes (n, height, width, C) of the sample numbers `samples`, n at most the batch size.

        `labels` (n,); `prefix` (n, rows, width, C) are first rows, which are kept. `progress` is
        called for each position.
        """
        with self._loops.lock:
            return self._sample(self._loop(draw), draw, samples, height, labels, prefix, progress)

    def _sample(
        self,
        loop: RowLoop,
        draw: SamplingParams,
        samples: range,
        height: int,
        labels: NDArray[np.int32] | None,
        prefix: NDArray[Any] | None,
        progress: Callable[[], None],
    ) -> NDArray[Any]:
        count = len(samples)
        above = loop.inputs["above"]
        width, books = above.shape[1:]
        nothing = self.codebook_size
        out = np.zeros((self.batch_size, height, width, books), np.int32)
        known = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            out[:count, :known] = prefix
        uniform = np.full((height, width, self.batch_size, books), 0.5, np.float32)
        drawn = noise(draw.seed, samples, height * width * books)
        uniform[:, :, :count] = drawn.reshape(count, height, width, books).transpose(1, 2, 0, 3)
        if labels is not None:
            loop.inputs["labels"][:] = 0
            loop.inputs["labels"][:count] = labels
        loop.begin()
        for r in range(height):
            above[:] = out[:, r - 1] if r else nothing
            if r < known:
                loop.skip()
                continue
            loop.inputs["noise"][:] = uniform[r]
            loop.draw(progress)
            out[:, r] = loop.codes.swapaxes(0, 1)
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
        most = getattr(engine, "most", None)
        if most is not None:  # an engine that was compiled for batches up to a size
            size = min(size, most(f"priors/{name}/step", {"width": width}))
        bind = partial(engine.bind, threads=1)
        bind_loop = getattr(engine, "bind_loop", None)
        self._starts = range(0, batch_size, size)
        self._size = size
        self._lanes = [
            PixelCNNSampler(bind, name, codebook_size, size, width, bind_loop) for _ in self._starts
        ]

    def sample(
        self,
        draw: SamplingParams,
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
