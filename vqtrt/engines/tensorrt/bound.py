"""A graph bound to fixed sizes in TensorRT, as `BoundGraph`: its caches stay on the GPU."""

from collections.abc import Collection, Mapping
from math import prod
from typing import Any
from weakref import WeakValueDictionary

from numpy.typing import NDArray

from vqtrt.engines.cuda import ALIGNMENT, DeviceArray, Repeated, Stream, pinned
from vqtrt.engines.rings import caches_of, period, read_slot, written_slot
from vqtrt.engines.tensorrt.context import LoadedPlan, Shape
from vqtrt.formats.bundle import GraphSpec
from vqtrt.formats.caches import CACHE, KEPT, is_cache, is_kept

Known = WeakValueDictionary[int, DeviceArray]
"""The memory on the GPU whose copy an array is, by the array's address."""


def aligned(nbytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def layout(nbytes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Offsets of tensors that share one piece of memory, each aligned, and its size."""
    offsets, end = {}, 0
    for name, count in nbytes.items():
        offsets[name] = end
        end += aligned(count)
    return offsets, end


def input_shapes(spec: GraphSpec, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """The shapes of a graph's inputs at these sizes."""
    return {tensor.name: tensor.resolve(sizes) for tensor in spec.inputs}


class Caches:
    """A graph's caches on the GPU, a ring of buffers for each."""

    def __init__(self, plan: LoadedPlan, spec: GraphSpec, sizes: Mapping[str, int]) -> None:
        self._caches = caches_of(spec.inputs)
        self.period = period(self._caches)
        """Turns after which the addresses are the same again."""
        self._strides = {
            cache.name: aligned(prod(cache.resolve(sizes)) * plan.itemsize(cache.name))
            for cache in self._caches
        }
        self._offsets, size = layout(
            {cache.name: 2 * cache.delay * self._strides[cache.name] for cache in self._caches}
        )
        self._memory = DeviceArray(size)

    def addresses(self, turn: int) -> dict[str, int]:
        """Of all caches, in the run `turn`."""
        found = {}
        for cache in self._caches:
            name, start = cache.name, self._memory.address + self._offsets[cache.name]
            stride = self._strides[name]
            found[name] = start + read_slot(cache, turn) * stride
            found[name.replace(CACHE, KEPT, 1)] = start + written_slot(cache, turn) * stride
        return found

    def zero(self, stream: Stream) -> None:
        """Queue the zeroing of all; then turn 0 may follow."""
        stream.zero(self._memory.address, self._memory.nbytes)


class TensorRTBound:
    """As `BoundGraph`. A run is one launch, once its copies and its graph have been captured.

    A shared array that is the output of another graph of the engine is not copied: both graphs
    use the same memory on the GPU.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        spec: GraphSpec,
        sizes: Mapping[str, int],
        shared: Mapping[str, NDArray[Any]],
        skip: Collection[str],
        known: Known,
        *,
        graphs: bool,
    ) -> None:
        self._stream = Stream()
        shapes = input_shapes(spec, sizes)
        plan.check(shapes)
        self._context = plan.context(captured=True, graphs=graphs)
        self._context.prepare(shapes)
        self.inputs: dict[str, NDArray[Any]] = {}
        self.outputs: dict[str, NDArray[Any]] = {}
        self._device: dict[str, DeviceArray] = {}
        self._staged: dict[str, NDArray[Any]] = {}
        for tensor in spec.inputs:
            if is_cache(tensor):
                continue
            name = tensor.name
            given = shared.get(name)
            resident = None if given is None else known.get(given.ctypes.data)
            if resident is None:
                self._staged[name] = pinned(shapes[name], tensor.dtype)
                resident = DeviceArray(self._staged[name].nbytes)
            self._device[name] = resident
            self.inputs[name] = self._staged[name] if given is None else given
        for tensor in spec.outputs:
            if is_kept(tensor):
                continue
            shape = tensor.resolve(sizes)
            made = DeviceArray(prod(shape) * plan.itemsize(tensor.name))
            self._device[tensor.name] = made
            if tensor.name not in skip:
                # As long as the memory lives, the array does, and its address is its own.
                made.host = self.outputs[tensor.name] = pinned(shape, tensor.dtype)
                known[made.host.ctypes.data] = made
        self._caches = Caches(plan, spec, sizes)
        self._turn, self._begins = 0, True

        context, stream = self._context, self._stream

        def capturable() -> bool:
            return context.capturable(stream)

        self._repeated = [
            Repeated(stream, enabled=graphs, capturable=capturable)
            for _ in range(self._caches.period)
        ]

    def run(self) -> None:
        """Run once; the caches move on."""
        for name, array in self._staged.items():
            if self.inputs[name] is not array:
                array[...] = self.inputs[name]
        turn = self._turn
        try:
            if self._begins:
                self._caches.zero(self._stream)
            self._repeated[turn].run(turn, lambda: self._queue(turn))
        finally:  # after an error too, nothing that is queued may outlive its memory
            self._stream.wait()
        self._turn, self._begins = (turn + 1) % self._caches.period, False

    def _queue(self, turn: int) -> None:
        for name, array in self._staged.items():
            self._stream.copy_in(self._device[name].address, array)
        addresses = {name: array.address for name, array in self._device.items()}
        self._context.enqueue(addresses | self._caches.addresses(turn), self._stream)
        for name, array in self.outputs.items():
            self._stream.copy_out(array, self._device[name].address)

    def reset(self) -> None:
        """Set the caches to zero: the next run does, before it begins."""
        self._turn, self._begins = 0, True
