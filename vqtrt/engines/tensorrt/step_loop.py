"""Runs of a WaveNet's step graph on the GPU, as one CUDA graph.

A run is small: queued one by one, most of its time is the cost of the launch. Here some runs are
one launch, as a row is in `cuda_loop.py`. The noise and what is drawn lie run after run in arrays
for all of them, and of what a run draws the last is copied to where the next reads it.

Notable: one captured graph does for all launches, whatever the delays of the caches are. The runs
of a launch read and write a cache at fixed addresses, and what the next launch needs of it is then
moved to the beginning. (Rings of buffers, which turn at every run, meet again after the least
common multiple of all delays: 256 runs of a vctk decoder, and a graph for each.)
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from numpy.typing import NDArray

from vqtrt.engines.cuda import DeviceArray, Repeated, Stream, pinned
from vqtrt.engines.rings import caches_of
from vqtrt.engines.step_loop import drawn_output
from vqtrt.engines.tensorrt.bound import aligned, input_shapes, layout
from vqtrt.engines.tensorrt.context import LoadedPlan
from vqtrt.engines.tensorrt.loop import Padded
from vqtrt.formats.bundle import GraphSpec
from vqtrt.formats.caches import CACHE, KEPT, is_cache, is_kept

_EACH_DRAW = ("bias",)
"""Inputs that change from launch to launch; the others hold for whole sequences."""
_MOST_RUNS = 64
"""Runs of a launch: more make a graph larger, and no faster."""


class History:
    """What a launch keeps of a graph's caches on the GPU.

    For a cache of delay d and a launch of R runs there are d + R buffers: run k reads buffer k and
    writes buffer k + d. After the launch, the last d are moved to the beginning.
    """

    def __init__(
        self, plan: LoadedPlan, spec: GraphSpec, sizes: Mapping[str, int], runs: int
    ) -> None:
        self._caches, self._runs = caches_of(spec.inputs), runs
        self._strides = {
            cache.name: aligned(prod(cache.resolve(sizes)) * plan.itemsize(cache.name))
            for cache in self._caches
        }
        self._offsets, size = layout(
            {c.name: (c.delay + runs) * self._strides[c.name] for c in self._caches}
        )
        self._memory = DeviceArray(size)
        # What is longer than it is moved by would overlap itself, so it goes by way of this.
        overlapping = [c.delay * self._strides[c.name] for c in self._caches if c.delay > runs]
        self._between = DeviceArray(max(overlapping, default=0))

    def addresses(self, run: int) -> dict[str, int]:
        """Of all caches, in a run of a launch."""
        found = {}
        for cache in self._caches:
            name, stride = cache.name, self._strides[cache.name]
            read = self._memory.address + self._offsets[name] + run * stride
            found[name] = read
            found[name.replace(CACHE, KEPT, 1)] = read + cache.delay * stride
        return found

    def move(self, stream: Stream) -> None:
        """Queue what makes another launch follow this one."""
        for cache in self._caches:
            stride = self._strides[cache.name]
            begin = self._memory.address + self._offsets[cache.name]
            end, nbytes = begin + self._runs * stride, cache.delay * stride
            if cache.delay > self._runs:
                stream.copy(self._between.address, end, nbytes)
                end = self._between.address
            stream.copy(begin, end, nbytes)

    def zero(self, stream: Stream) -> None:
        """Queue the zeroing of all; then a first launch may follow."""
        stream.zero(self._memory.address, self._memory.nbytes)


class DeviceStepLoop:
    """As `StepLoop`: all runs of a call of `draw` are drawn, by one launch."""

    def __init__(
        self,
        plan: LoadedPlan,
        spec: GraphSpec,
        sizes: Mapping[str, int],
        runs: int,
        start: int,
        *,
        graphs: bool = True,
    ) -> None:
        """Arguments as of `Engine.bind_steps`; `graphs` False queues all runs plainly."""
        # Whole launches make up what was asked for.
        self.runs = max(n for n in range(1, min(runs, _MOST_RUNS) + 1) if runs % n == 0)
        self._stream = stream = Stream()
        shapes = input_shapes(spec, sizes)
        plan.check(shapes)
        self._context = context = plan.context(captured=True, graphs=graphs)
        context.prepare(shapes)
        self._history = History(plan, spec, sizes, self.runs)
        drawn = drawn_output(spec)
        self._rows, self._unroll = drawn.resolve(sizes)
        self._noise = Padded(self.runs, shapes["noise"], "float32")
        self._drawn = Padded(self.runs, (self._rows, self._unroll), "int32")
        self._strips = {"noise": self._noise.strip, drawn.name: self._drawn.strip}
        self.drawn: NDArray[Any] = self._drawn.array
        self._staged = {
            tensor.name: pinned(shapes[tensor.name], tensor.dtype)
            for tensor in spec.inputs
            if not is_cache(tensor) and tensor.name != "noise"
        }
        self._staged["previous"][...] = start
        self.inputs = {**self._staged, "noise": self._noise.array}
        self._device = {name: DeviceArray(array.nbytes) for name, array in self._staged.items()}
        for tensor in spec.outputs:
            if not is_kept(tensor) and tensor.name != drawn.name:
                count = prod(tensor.resolve(sizes))
                self._device[tensor.name] = DeviceArray(count * plan.itemsize(tensor.name))
        self._fixed = {name: memory.address for name, memory in self._device.items()}
        self._repeated = Repeated(
            stream, enabled=graphs, capturable=lambda: context.capturable(stream)
        )

    @property
    def captured(self) -> bool:
        """Whether a launch is a CUDA graph by now."""
        return self._repeated.captured

    @property
    def refused(self) -> str | None:
        """Why the runs are not captured, if they cannot be."""
        return self._repeated.refused

    def begin(self) -> None:
        """Begin sequences: forget what was drawn, and copy what holds for all runs."""
        self._history.zero(self._stream)
        for name, array in self._staged.items():
            if name not in _EACH_DRAW:
                self._stream.copy_in(self._fixed[name], array)
        self._stream.wait()

    def draw(self, runs: int) -> None:
        """Draw; `runs` says how many of them are wanted."""
        try:
            self._repeated.run("launch", self._queue)
        finally:  # also after an error: what is queued must not outlive its memory
            self._stream.wait()

    def _queue(self) -> None:
        stream, previous = self._stream, self._fixed["previous"]
        stream.copy_in(self._noise.device.address, self._noise.host)
        for name in _EACH_DRAW:
            if name in self._staged:
                stream.copy_in(self._fixed[name], self._staged[name])
        for run in range(self.runs):
            strips = {name: strip.at(run) for name, strip in self._strips.items()}
            self._context.enqueue({**self._fixed, **strips, **self._history.addresses(run)}, stream)
            last = self._drawn.strip.at(run) + (self._unroll - 1) * 4
            stream.copy_column(previous, last, self._unroll * 4, self._rows)
        self._history.move(stream)
        stream.copy_out(self._drawn.host, self._drawn.device.address)
