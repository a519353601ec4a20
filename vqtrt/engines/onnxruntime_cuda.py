"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, or its TensorRT provider before that.

What is bound for loops stays on the GPU: caches, and the outputs of one graph that another shares.
TensorRT builds its engines anew in each process here: files of its own would not be checked.
"""

import os
from collections.abc import Collection, Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from vqtrt.bundle import Bundle, GraphSpec
from vqtrt.engines.base import CACHE, KEPT, BoundGraph, is_cache, is_kept
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.rings import caches_of, period, read_slot, written_slot
from vqtrt.errors import VqtrtError
from vqtrt.precision import graph_key

# Rounding float32 to 10 bits before a product, as it does by default, would flip codes.
_PROVIDERS: list[tuple[str, dict[str, str]]] = [
    ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"}),
    ("CPUExecutionProvider", {}),
]
_TENSORRT = ("TensorrtExecutionProvider", {"device_id": "0"})


class OnnxRuntimeCudaEngine(OnnxRuntimeEngine):
    """A bundle's graphs in ONNX Runtime on GPU `device`; with `tensorrt`, by TensorRT in it.

    Raises `VqtrtError` where the installed onnxruntime has no such provider.
    """

    name = "onnxruntime-cuda"
    shape_specialized = True
    device = "cuda"

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        tensorrt: bool = False,
        device: int = 0,
    ) -> None:
        super().__init__(bundle, precision=precision)
        self.lanes = 1
        self.gpu = device
        self.providers = [*_PROVIDERS]
        if tensorrt:
            self.name = "onnxruntime-tensorrt"
            # The provider has no option for it; NVIDIA's libraries all look here.
            os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
            self.providers.insert(0, _TENSORRT)
        for index, (provider, options) in enumerate(self.providers):
            if "device_id" in options:
                self.providers[index] = provider, options | {"device_id": str(device)}
        self._require()
        self._known: WeakValueDictionary[int, _Resident] = WeakValueDictionary()

    def _require(self) -> None:
        import onnxruntime

        wanted = self.providers[0][0]
        if wanted not in onnxruntime.get_available_providers():
            raise VqtrtError(
                f"onnxruntime {onnxruntime.__version__} here has no {wanted}: "
                'pip uninstall onnxruntime, then pip install "vqtrt[gpu]"'
            )

    def bind(
        self,
        graph: str,
        sizes: Mapping[str, int],
        *,
        shared: Mapping[str, NDArray[Any]] | None = None,
        skip: Collection[str] = (),
        threads: int | None = None,
    ) -> BoundGraph:
        """As `Engine.bind`; `threads` is of no use on a GPU."""
        graph = graph_key(self.precision, graph)
        spec = self.bundle.graph_spec(graph)
        return _CudaBound(self, graph, self._session(graph), spec, sizes, shared or {}, skip)

    def _make_session(self, graph: str, threads: int | None) -> Any:
        import onnxruntime

        content = self.bundle.graph_bytes(graph)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, too
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(content, options, providers=self.providers)
        except Exception as error:
            raise VqtrtError(
                f"{self.bundle.path}: onnxruntime {onnxruntime.__version__} refuses the graph "
                f"{graph!r} on {self.providers[0][0]} ({' '.join(str(error).split())})"
            ) from error
        wanted = self.providers[0][0]
        if wanted not in session.get_providers():
            # It goes on with the next provider, and would run on the CPU without a word.
            raise VqtrtError(
                f"onnxruntime {onnxruntime.__version__} cannot use {wanted} here: it needs a "
                "driver, and CUDA's and cuDNN's libraries of its version; see "
                "`python -c 'import onnxruntime; onnxruntime.print_debug_info()'`"
            )
        return session


class _Resident:
    """A tensor on the GPU, and the array that it is copied to or from."""

    def __init__(self, shape: tuple[int, ...], dtype: str, device: str) -> None:
        from onnxruntime import OrtValue

        self.host: NDArray[Any] = np.zeros(shape, dtype)
        self.value = OrtValue.ortvalue_from_shape_and_type(shape, self.host.dtype.type, device, 0)
        self.value.update_inplace(self.host)


class _CudaBound:
    """A session with fixed buffers on the GPU, and a ring of them for each cache."""

    def __init__(
        self,
        engine: OnnxRuntimeCudaEngine,
        graph: str,
        session: Any,
        spec: GraphSpec,
        sizes: Mapping[str, int],
        shared: Mapping[str, NDArray[Any]],
        skip: Collection[str],
    ) -> None:
        self._engine, self._graph, self._session = engine, graph, session
        known, device = engine._known, engine.device
        reads: dict[str, _Resident] = {}
        self._copied: dict[str, _Resident] = {}
        self.inputs: dict[str, NDArray[Any]] = {}
        for tensor in spec.inputs:
            if is_cache(tensor):
                continue
            name = tensor.name
            given = shared.get(name)
            resident = None if given is None else known.get(given.ctypes.data)
            if resident is None:
                resident = _Resident(tensor.resolve(sizes), tensor.dtype, device)
                self._copied[name] = resident
            reads[name] = resident
            self.inputs[name] = resident.host if given is None else given
        self._made = {
            tensor.name: _Resident(tensor.resolve(sizes), tensor.dtype, device)
            for tensor in spec.outputs
            if not is_kept(tensor) and tensor.name not in skip
        }
        known.update({each.host.ctypes.data: each for each in self._made.values()})
        self.outputs = {name: each.host for name, each in self._made.items()}
        caches = caches_of(spec.inputs)
        self._rings = [
            (t, [_Resident(t.resolve(sizes), t.dtype, device) for _ in range(2 * t.delay)])
            for t in caches
        ]
        self._bindings = [self._bind(turn, reads) for turn in range(period(caches))]
        self._turn = 0

    def _bind(self, turn: int, reads: dict[str, _Resident]) -> Any:
        """What a turn reads and writes."""
        binding = self._session.io_binding()
        for name, resident in reads.items():
            binding.bind_ortvalue_input(name, resident.value)
        for name, resident in self._made.items():
            binding.bind_ortvalue_output(name, resident.value)
        for cache, ring in self._rings:
            binding.bind_ortvalue_input(cache.name, ring[read_slot(cache, turn)].value)
            kept = cache.name.replace(CACHE, KEPT, 1)
            binding.bind_ortvalue_output(kept, ring[written_slot(cache, turn)].value)
        return binding

    def run(self) -> None:
        """Run once; the caches move on."""
        try:
            for name, resident in self._copied.items():
                resident.value.update_inplace(np.ascontiguousarray(self.inputs[name]))
            self._session.run_with_iobinding(self._bindings[self._turn])
            for name, resident in self._made.items():
                self.outputs[name][...] = resident.value.numpy()
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in self.inputs.values())
            raise self._engine._failed(self._graph, shapes, error) from error
        self._turn = (self._turn + 1) % len(self._bindings)

    def reset(self) -> None:
        """Set the caches to zero."""
        self._turn = 0
        for cache, ring in self._rings:
            # The others are written before they are read.
            for resident in ring[: cache.delay]:
                resident.value.update_inplace(resident.host)
