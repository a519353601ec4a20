"""A graph in ONNX Runtime's CUDA provider, bound as `BoundGraph`.

What is bound stays on the GPU: caches, and the outputs of one graph that another shares. A run
copies all inputs at once, and all outputs at once. Each turn of the caches' rings uses the same
addresses whenever it comes, so it is captured as a CUDA graph and replayed: a step of a small model
is hundreds of kernels, which take longer to launch one by one than to run.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines import cuda
from vqtrt.engines.base import Binding
from vqtrt.engines.onnxruntime import load_onnxruntime
from vqtrt.engines.rings import Rings
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import GraphSpec, TensorSpec
from vqtrt.formats.caches import is_cache, is_kept

if TYPE_CHECKING:
    from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine

Place = tuple[Any, ...]
"""A tensor on the GPU, as an IO binding takes it."""


class _Strip:
    """Some tensors in one piece of memory on the GPU, and the arrays that they are copied to."""

    def __init__(
        self, tensors: Iterable[TensorSpec], sizes: Mapping[str, int], device: int
    ) -> None:
        kinds = [(each.name, each.resolve(sizes), np.dtype(each.dtype)) for each in tensors]
        starts, end = [], 0
        for _, shape, dtype in kinds:
            starts.append(end)
            end += -(-math.prod(shape) * dtype.itemsize // cuda.ALIGNMENT) * cuda.ALIGNMENT
        self._host = np.zeros(max(end, cuda.ALIGNMENT), np.uint8)
        self._used = end > 0
        ort_value = load_onnxruntime().OrtValue
        self._memory = ort_value.ortvalue_from_shape_and_type(
            self._host.shape, np.uint8, "cuda", device
        )
        self.to_gpu()
        self.arrays: dict[str, NDArray[Any]] = {}
        self.places: dict[str, Place] = {}
        for start, (name, shape, dtype) in zip(starts, kinds, strict=True):
            stop = start + math.prod(shape) * dtype.itemsize
            self.arrays[name] = self._host[start:stop].view(dtype).reshape(shape)
            address = self._memory.data_ptr() + start
            self.places[name] = "cuda", device, dtype.type, shape, address

    def to_gpu(self) -> None:
        """Copy all arrays to the GPU."""
        if self._used:
            self._memory.update_inplace(self._host)

    def only_place(self) -> Place:
        """Where its one tensor is."""
        (place,) = self.places.values()
        return place

    def to_host(self) -> None:
        """Copy all tensors to the arrays."""
        if self._used:
            self._host[:] = self._memory.numpy()


class Resident:
    """An output on the GPU, which another graph can read there."""

    def __init__(self, strip: _Strip, name: str) -> None:
        self._strip = strip  # lives as long as it is read
        self.place = strip.places[name]


class CudaBound:
    """A session with fixed buffers on the GPU, and a ring of them for each cache.

    A graph with caches has a session of its own, which captures each turn. If ONNX Runtime cannot
    capture it, it runs plainly, and the log says why.
    """

    def __init__(
        self,
        engine: "OnnxRuntimeCudaEngine",
        graph: str,
        spec: GraphSpec,
        sizes: Mapping[str, int],
        how: Binding,
    ) -> None:
        shared = how.shared
        self._engine, self._graph, device = engine, graph, engine.gpu
        inputs = [tensor for tensor in spec.inputs if not is_cache(tensor)]
        self._read = {
            name: resident
            for name, array in shared.items()
            if (resident := engine.known.get(array.ctypes.data)) is not None
        }
        with engine.turn:
            copied = [tensor for tensor in inputs if tensor.name not in self._read]
            made = [t for t in spec.outputs if not is_kept(t) and t.name not in how.skip]
            self._in, self._out = _Strip(copied, sizes, device), _Strip(made, sizes, device)
            self._rings = Rings(
                spec.inputs, lambda cache: _Strip([cache], sizes, device), _Strip.only_place
            )
        self._given = {t.name: shared[t.name] for t in copied if t.name in shared}
        """Arrays of others that are inputs."""
        self.inputs = {
            tensor.name: shared[tensor.name]
            if tensor.name in shared
            else self._in.arrays[tensor.name]
            for tensor in inputs
        }
        self.outputs = self._out.arrays
        self._made = [Resident(self._out, tensor.name) for tensor in made]
        for tensor, resident in zip(made, self._made, strict=True):
            engine.known[self.outputs[tensor.name].ctypes.data] = resident
        self.captures = bool(self._rings) and cuda.graphs_wanted()
        """Whether turns are replayed as CUDA graphs."""
        if self.captures:
            try:
                self._use(engine.capturing_session(graph))
            except VqtrtError as error:
                self._run_plainly(error)
        else:
            self._use(engine._session(graph))

    def _use(self, session: Any) -> None:
        """Bind what each turn reads and writes."""
        self._session = session
        self._bindings = [self._bind(turn) for turn in range(self._rings.turns)]
        self._options = [self._run_options(turn) for turn in range(self._rings.turns)]

    def _run_plainly(self, error: Exception) -> None:
        cuda.warn_slower(" ".join(str(error).split()))
        self.captures = False
        self._use(self._engine._session(self._graph))

    def _bind(self, turn: int) -> Any:
        binding = self._session.io_binding()
        for name, place in self._in.places.items():
            binding.bind_input(name, *place)
        for name, resident in self._read.items():
            binding.bind_input(name, *resident.place)
        for name, place in self._out.places.items():
            binding.bind_output(name, *place)
        self._rings.bind(binding, turn)
        return binding

    def _run_options(self, turn: int) -> Any:
        options = load_onnxruntime().RunOptions()
        if self.captures:
            options.add_run_config_entry("gpu_graph_id", str(turn))
        return options

    def run(self) -> None:
        """Run once; the caches move on."""
        for name, array in self._given.items():
            self._in.arrays[name][...] = array
        try:
            with self._engine.turn:
                self._in.to_gpu()
                self._launch()
                self._out.to_host()
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in self.inputs.values())
            raise self._engine._failed(self._graph, shapes, error) from error
        self._rings.advance()

    def _launch(self) -> None:
        # The first run of a turn runs it, then captures it. Nothing that a turn reads is written
        # in it, so it can be run again.
        try:
            self._session.run_with_iobinding(
                self._bindings[self._rings.turn], self._options[self._rings.turn]
            )
        except Exception as error:
            if not self.captures:
                raise
            self._run_plainly(error)
            self._session.run_with_iobinding(
                self._bindings[self._rings.turn], self._options[self._rings.turn]
            )

    def reset(self) -> None:
        """Set the caches to zero."""
        with self._engine.turn:
            for strip in self._rings.rewind():
                strip.to_gpu()
