"""ONNX Runtime on the CPU: what runs anywhere.

Threads do not spin while they wait: beside the threads that read images, spinning would take the
cores that decoding needs.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import Binding, BoundGraph, BundleEngine, Graph
from vqtrt.engines.opened import Opened
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.engines.rings import Rings
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, GraphSpec, TensorSpec
from vqtrt.formats.caches import is_cache, is_kept
from vqtrt.formats.precision import graph_key
from vqtrt.system.cores import core_limit, usable_cores


def load_onnxruntime() -> Any:
    """The module `onnxruntime`, without its telemetry unless the environment asks for it.

    Telemetry has a thread of its own, which a forked process lacks and waits for when it ends.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class OnnxRuntimeEngine(BundleEngine):
    """A bundle's graphs of one precision in ONNX Runtime.

    Its CPU has no half arithmetic: fp16 graphs run on float32 between casts, and bf16 ones not.
    """

    name = "onnxruntime"
    turn: AbstractContextManager[Any] = nullcontext()
    """Held while a graph that `open` gave runs."""

    def __init__(self, bundle: Bundle, options: EngineOptions = AUTO) -> None:
        super().__init__(bundle, options)
        self.num_streams = self._count_streams()
        self._sessions: Opened[tuple[str, int | None], Any] = Opened()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        # The process that unpickles may have other cores.
        self.num_streams = self._count_streams()

    def _count_streams(self) -> int:
        return self.options.threads or usable_cores()

    def open(self, graph: str) -> Graph:
        """Check the graph's hash, then make a session from the checked bytes."""
        return _OpenGraph(self, graph_key(self.precision, graph))

    def _bind(self, graph: str, sizes: Mapping[str, int], how: Binding) -> BoundGraph:
        """As `Engine.bind`; what is bound to one graph shares its weights."""
        graph = graph_key(self.precision, graph)
        spec = self.bundle.graph_spec(graph)
        session = self._session(graph, how.threads)
        return _Bound(self, graph, session, spec, sizes, how)

    def _session(self, graph: str, threads: int | None = None) -> Any:
        """The session of a graph, one for all threads of this process."""
        threads = threads or self.options.threads
        make = partial(self._make_session, graph, threads)
        return self._sessions.get((graph, threads), make)

    def _failed(self, graph: str, on: str, error: Exception) -> VqtrtError:
        onnxruntime = load_onnxruntime()
        return VqtrtError(
            f"{self.bundle.path}: onnxruntime {onnxruntime.__version__} cannot run the graph "
            f"{graph!r} on {on} ({_one_line(error)}); if it lacks memory, a smaller batch size "
            "needs less"
        )

    def _make_session(self, graph: str, threads: int | None) -> Any:
        onnxruntime = load_onnxruntime()
        content = self.bundle.graph_bytes(graph)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are raised as well
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Its own choice, a thread for each physical core, knows no affinity and no quota.
        threads = threads or core_limit()
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


class _OpenGraph:
    """A graph of one output and no caches, from arrays to an array."""

    def __init__(self, engine: OnnxRuntimeEngine, graph: str) -> None:
        self._engine, self._graph = engine, graph
        spec, session = engine.bundle.graph_spec(graph), engine._session(graph)
        self._names = [tensor.name for tensor in spec.inputs]
        told = (set(self._names), [tensor.name for tensor in spec.outputs])
        real = ({i.name for i in session.get_inputs()}, [o.name for o in session.get_outputs()])
        if told != real or len(spec.outputs) != 1:
            raise VqtrtError(
                f"{engine.bundle.path}: the graph {graph!r} makes {_listed(real[1])} of "
                f"{_listed(real[0])}, not one array of {_listed(self._names)}; export the run again"
            )

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[Any]:
        """Run on arrays of the table's dtypes and shapes."""
        session = self._engine._session(self._graph)  # another one in a forked process
        try:
            with self._engine.turn:
                (result,) = session.run(None, dict(zip(self._names, arrays, strict=True)))
        except Exception as error:
            on = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
            raise self._engine._failed(self._graph, on, error) from error
        out: NDArray[Any] = result
        return out


class _Bound:
    """A session with fixed buffers, and a ring of them for each cache.

    Bindings are made once for every turn of the rings: a run is one call.
    """

    def __init__(
        self,
        engine: OnnxRuntimeEngine,
        graph: str,
        session: Any,
        spec: GraphSpec,
        sizes: Mapping[str, int],
        how: Binding,
    ) -> None:
        self._engine, self._graph, self._session = engine, graph, session
        self.inputs = {
            tensor.name: how.shared.get(tensor.name, _buffer(tensor, sizes))
            for tensor in spec.inputs
            if not is_cache(tensor)
        }
        self.outputs = {
            tensor.name: _buffer(tensor, sizes)
            for tensor in spec.outputs
            if not is_kept(tensor) and tensor.name not in how.skip
        }
        self._rings = Rings(spec.inputs, partial(_buffer, sizes=sizes), _place)
        self._bindings = self._bind()

    def _bind(self) -> list[Any]:
        """What each turn reads and writes."""
        inputs = {name: _place(array) for name, array in self.inputs.items()}
        outputs = {name: _place(array) for name, array in self.outputs.items()}
        bindings = []
        for turn in range(self._rings.turns):
            binding = self._session.io_binding()
            for name, place in inputs.items():
                binding.bind_input(name, *place)
            for name, place in outputs.items():
                binding.bind_output(name, *place)
            self._rings.bind(binding, turn)
            bindings.append(binding)
        return bindings

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._bindings[self._rings.turn])
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in self.inputs.values())
            raise self._engine._failed(self._graph, shapes, error) from error
        self._rings.advance()

    def reset(self) -> None:
        for buffer in self._rings.rewind():
            buffer.fill(0)


def _place(array: NDArray[Any]) -> tuple[Any, ...]:
    """An array as an IO binding takes it."""
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"


def _buffer(tensor: TensorSpec, sizes: Mapping[str, int]) -> NDArray[Any]:
    return np.zeros(tensor.resolve(sizes), tensor.dtype)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
