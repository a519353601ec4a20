"""ONNX Runtime on the CPU: what runs anywhere.

Threads do not spin while they wait: beside the threads that read images, spinning would take the
cores that decoding needs.
"""

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.bundle import Bundle, GraphSpec, PriorFacts, TensorSpec
from vqtrt.engines.base import CACHE, KEPT, BoundGraph, Graph, is_cache, is_kept
from vqtrt.errors import VqtrtError
from vqtrt.precision import graph_key, require_precision


class OnnxRuntimeEngine:
    """A bundle's graphs of one precision in ONNX Runtime.

    Its CPU has no half arithmetic: fp16 graphs run on float32 between casts, and bf16 ones not.
    """

    name = "onnxruntime"

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, precision: str = "fp32"
    ) -> None:
        require_precision(bundle, precision)
        self.bundle = bundle
        self.precision = precision
        self.facts = bundle.info.model
        self.preprocessing = bundle.info.preprocessing
        self.weights_sha256 = bundle.info.source.weights_sha256
        self.priors: Mapping[str, PriorFacts] = bundle.info.priors
        self._threads = threads
        self.lanes = threads or len(os.sched_getaffinity(0))
        self._bound: dict[tuple[str, int | None], Any] = {}

    def open(self, graph: str) -> Graph:
        """Check the graph's hash, then make a session from the checked bytes."""
        graph = graph_key(self.precision, graph)
        session = self._session(graph)
        sources, targets = session.get_inputs(), session.get_outputs()
        if len(sources) != 1 or len(targets) != 1:
            raise VqtrtError(
                f"{self.bundle.path}: the graph {graph!r} has {len(sources)} inputs and "
                f"{len(targets)} outputs, not one of each; export the run again"
            )
        (source,), (target,) = sources, targets

        def run(array: NDArray[Any]) -> NDArray[Any]:
            try:
                (result,) = session.run([target.name], {source.name: array})
            except Exception as error:
                raise self._failed(graph, f"{array.dtype} {array.shape}", error) from error
            out: NDArray[Any] = result
            return out

        return run

    def bind(
        self,
        graph: str,
        sizes: Mapping[str, int],
        *,
        shared: Mapping[str, NDArray[Any]] | None = None,
        skip: Collection[str] = (),
        threads: int | None = None,
    ) -> BoundGraph:
        """As `Engine.bind`; what is bound to one graph shares its weights."""
        graph = graph_key(self.precision, graph)
        spec = self.bundle.graph_spec(graph)
        if (graph, threads) not in self._bound:
            self._bound[graph, threads] = self._session(graph, threads)
        session = self._bound[graph, threads]
        return _Bound(self, graph, session, spec, sizes, shared or {}, skip)

    def _failed(self, graph: str, on: str, error: Exception) -> VqtrtError:
        import onnxruntime

        return VqtrtError(
            f"{self.bundle.path}: onnxruntime {onnxruntime.__version__} cannot run the graph "
            f"{graph!r} on {on} ({_one_line(error)}); if it lacks memory, a smaller batch size "
            "needs less"
        )

    def _session(self, graph: str, threads: int | None = None) -> Any:
        import onnxruntime

        content = self.bundle.graph_bytes(graph)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        threads = threads or self._threads
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            return onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime raises its own exception classes, which share no base but this one.
            bf16 = self.precision == "bf16"
            hint = "; it runs no bf16 here: pass --precision fp16" if bf16 else ""
            raise VqtrtError(
                f"{self.bundle.path}: onnxruntime {onnxruntime.__version__} refuses the graph "
                f"{graph!r} ({_one_line(error)}){hint}"
            ) from error


class _Bound:
    """A session with fixed buffers and two sets of caches, read and written in turn."""

    def __init__(
        self,
        engine: OnnxRuntimeEngine,
        graph: str,
        session: Any,
        spec: GraphSpec,
        sizes: Mapping[str, int],
        shared: Mapping[str, NDArray[Any]],
        skip: Collection[str],
    ) -> None:
        self._engine, self._graph, self._session = engine, graph, session
        caches = [tensor for tensor in spec.inputs if is_cache(tensor)]
        self.inputs = {
            tensor.name: shared.get(tensor.name, _buffer(tensor, sizes))
            for tensor in spec.inputs
            if not is_cache(tensor)
        }
        self.outputs = {
            tensor.name: _buffer(tensor, sizes)
            for tensor in spec.outputs
            if not is_kept(tensor) and tensor.name not in skip
        }
        self._caches = [[_buffer(tensor, sizes) for tensor in caches] for _ in range(2)]
        self._bindings = [self._bind(turn, caches) for turn in range(2)]
        self._turn = 0

    def _bind(self, turn: int, caches: list[TensorSpec]) -> Any:
        """Reads the caches of set `turn` and writes those of the other."""
        binding = self._session.io_binding()
        sources, targets = self._caches[turn], self._caches[1 - turn]
        names = [tensor.name for tensor in caches]
        reads = self.inputs | dict(zip(names, sources, strict=True))
        kept = [name.replace(CACHE, KEPT, 1) for name in names]
        writes = self.outputs | dict(zip(kept, targets, strict=True))
        for bind, arrays in ((binding.bind_input, reads), (binding.bind_output, writes)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return binding

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._bindings[self._turn])
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in self.inputs.values())
            raise self._engine._failed(self._graph, shapes, error) from error
        self._turn = 1 - self._turn

    def reset(self) -> None:
        for array in self._caches[self._turn]:
            array.fill(0)


def _buffer(tensor: TensorSpec, sizes: Mapping[str, int]) -> NDArray[Any]:
    return np.zeros(tensor.resolve(sizes), tensor.dtype)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
