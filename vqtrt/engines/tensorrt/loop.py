"""A prior's row and its positions on the GPU, as one CUDA graph.

A step of a prior is small: queued one by one, most of its time is the cost of the launch. Here a
row is one launch. The step graph is queued once a position, each time with other addresses: the
codes that a position draws are the input of the next, the caches change places, and the noise and
the column of a position lie at its place in an array for the row. Only codes come back, a row at a
time, for the row above is an input of the next in another order.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.cuda import DeviceArray, Repeated, Stream, pinned
from vqtrt.engines.tensorrt.bound import Caches, aligned, input_shapes
from vqtrt.engines.tensorrt.context import LoadedPlan
from vqtrt.formats.bundle import GraphSpec
from vqtrt.formats.caches import is_cache, is_kept
from vqtrt.formats.sampling import SAMPLING_INPUTS

_STRIPS = ("column", "noise", "codes")
_ONCE = ("labels", *SAMPLING_INPUTS)
"""Inputs that change with a sample and not with a row."""


class Strip(NamedTuple):
    """Where a row's positions have a tensor on the GPU: one after the other, each aligned."""

    address: int
    stride: int
    """Bytes from one position to the next."""

    def at(self, column: int) -> int:
        """The address of a position."""
        return self.address + column * self.stride


def step_addresses(
    column: int,
    *,
    fixed: Mapping[str, int],
    strips: Mapping[str, Strip],
    start_code: int,
    caches: Caches,
) -> dict[str, int]:
    """Where each tensor of the step graph lies at a position.

    `fixed` are those that are the same for all; `strips` has `column`, `noise` and `codes`;
    `start_code` holds what stands for no code, which is to the left of the first position.
    Position 0 is turn 0 of the caches.
    """
    left = strips["codes"].at(column - 1) if column else start_code
    places = {name: strip.at(column) for name, strip in strips.items()}
    return {**fixed, **places, "code": left, **caches.addresses(column)}


class Padded:
    """An array of a row on both sides: (W, …) of 4-byte numbers, each position aligned."""

    def __init__(self, width: int, shape: tuple[int, ...], dtype: str) -> None:
        count = int(np.prod(shape))
        stride = aligned(count * 4)
        self.host = pinned((width, stride // 4), dtype)
        self.array: NDArray[Any] = self.host[:, :count].reshape(width, *shape)
        self.device = DeviceArray(self.host.nbytes)
        self.strip = Strip(self.device.address, stride)


class DeviceRowLoop:
    """Draws a row of every sample: `inputs` in, `codes` out. As `RowLoop` of the sampler.

    `inputs` has `above` int32 (N, W, C) and `noise` float32 (W, N, C), to write before each row,
    and the step's sampling parameters and the row's `labels`, to write before `begin`.
    `codes` int32 (W, N, C) holds a row after `draw`.
    """

    def __init__(
        self,
        row: tuple[LoadedPlan, GraphSpec],
        step: tuple[LoadedPlan, GraphSpec],
        sizes: Mapping[str, int],
        start_code: int,
        *,
        graphs: bool = True,
    ) -> None:
        """`start_code` is the code that stands for no code."""
        self._stream = stream = Stream()
        self._width, batch = sizes["width"], sizes["batch"]
        (row_plan, row_spec), (step_plan, step_spec) = row, step
        contexts = []
        for plan, spec in (row, step):
            shapes = input_shapes(spec, sizes)
            plan.check(shapes)
            context = plan.context(captured=True, graphs=graphs)
            context.prepare(shapes)
            contexts.append(context)
        self._row, self._step = contexts
        self._caches = Caches(row_plan, row_spec, sizes), Caches(step_plan, step_spec, sizes)

        tensors = {tensor.name: tensor for tensor in (*step_spec.inputs, *row_spec.inputs)}
        books = int(tensors["above"].resolve(sizes)[-1])
        self._padded = {
            "column": Padded(self._width, (1,), "int32"),
            "noise": Padded(self._width, (batch, books), "float32"),
            "codes": Padded(self._width, (batch, books), "int32"),
        }
        self._strips = {name: self._padded[name].strip for name in _STRIPS}
        self.codes = self._padded["codes"].array
        self.inputs = {
            tensor.name: pinned(tensor.resolve(sizes), tensor.dtype)
            for tensor in tensors.values()
            if tensor.name in _ONCE or tensor.name == "above"
        }
        self._nothing = pinned((batch, books), "int32")
        self._nothing[...] = start_code
        self._device = {name: DeviceArray(array.nbytes) for name, array in self.inputs.items()}
        self._device["code"] = DeviceArray(self._nothing.nbytes)
        for tensor in (*row_spec.outputs, *step_spec.outputs):
            if not is_kept(tensor) and tensor.name not in _STRIPS:
                plan = row_plan if tensor in row_spec.outputs else step_plan
                count = int(np.prod(tensor.resolve(sizes)))
                self._device[tensor.name] = DeviceArray(count * plan.itemsize(tensor.name))
        self.inputs["noise"] = self._padded["noise"].array

        columns = self._padded["column"]
        columns.array[:, 0] = np.arange(self._width)
        stream.copy_in(columns.device.address, columns.host)
        stream.copy_in(self._device["code"].address, self._nothing)
        self._row_fixed = self._fixed(row_spec)
        self._step_fixed = self._fixed(step_spec)
        self._turn = 0
        self.refused: str | None = None
        """Why the row is not captured, where it cannot be."""

        def capturable() -> bool:
            return all(context.capturable(stream) for context in contexts)

        turns = self._caches[0].period
        self._repeated = [
            Repeated(stream, enabled=graphs, capturable=capturable) for _ in range(turns)
        ]
        stream.wait()

    def _fixed(self, spec: GraphSpec) -> dict[str, int]:
        """Addresses of the tensors of a graph that stay where they are."""
        names = [
            tensor.name
            for tensor in (*spec.inputs, *spec.outputs)
            if not is_cache(tensor) and not is_kept(tensor)
        ]
        return {name: self._device[name].address for name in names if name not in _STRIPS}

    @property
    def captured(self) -> bool:
        """Whether rows are CUDA graphs by now."""
        return all(repeated.captured for repeated in self._repeated)

    def begin(self) -> None:
        """Begin samples: the row's caches are zero again, and what holds for all rows is copied."""
        self._turn = 0
        self._caches[0].zero(self._stream)
        for name in _ONCE:
            if name in self.inputs:
                self._stream.copy_in(self._device[name].address, self.inputs[name])
        self._stream.wait()

    def skip(self) -> None:
        """Go past a row without drawing it: the rows below it need what it says to them."""
        self._queue_row(self._turn)
        self._finish()

    def draw(self, progress: Callable[[], None] = lambda: None) -> None:
        """Draw a row; `progress` is called once for each position, when all are drawn."""
        turn = self._turn
        self._repeated[turn].run(turn, lambda: self._queue(turn))
        self._finish()
        self.refused = self.refused or self._repeated[turn].refused
        for _ in range(self._width):
            progress()

    def _finish(self) -> None:
        self._stream.wait()
        self._turn = (self._turn + 1) % len(self._repeated)

    def _queue_row(self, turn: int) -> None:
        self._stream.copy_in(self._device["above"].address, self.inputs["above"])
        self._row.enqueue(self._row_fixed | self._caches[0].addresses(turn), self._stream)

    def _queue(self, turn: int) -> None:
        stream, noise, codes = self._stream, self._padded["noise"], self._padded["codes"]
        stream.copy_in(noise.device.address, noise.host)
        self._queue_row(turn)
        self._caches[1].zero(stream)
        for column in range(self._width):
            addresses = step_addresses(
                column,
                fixed=self._step_fixed,
                strips=self._strips,
                start_code=self._device["code"].address,
                caches=self._caches[1],
            )
            self._step.enqueue(addresses, stream)
        stream.copy_out(codes.host, codes.device.address)
