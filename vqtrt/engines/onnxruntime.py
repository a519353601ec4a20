"""ONNX Runtime on the CPU: what runs anywhere.

Threads do not spin while they wait: beside the threads that read images, spinning would take the
cores that decoding needs.
"""

from typing import Any

from numpy.typing import NDArray

from vqtrt.bundle import Bundle
from vqtrt.engines.base import Graph
from vqtrt.errors import VqtrtError


class OnnxRuntimeEngine:
    """A bundle's graphs in ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        self.bundle = bundle
        self.facts = bundle.info.model
        self.preprocessing = bundle.info.preprocessing
        self.identity = bundle.sha256
        self._threads = threads

    def open(self, graph: str) -> Graph:
        """Check the graph's hash, then make a session from the checked bytes."""
        import onnxruntime

        content = self.bundle.graph_bytes(graph)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime raises its own exception classes, which share no base but this one.
            reason = " ".join(str(error).split())
            raise VqtrtError(
                f"{self.bundle.path}: onnxruntime {onnxruntime.__version__} refuses the graph "
                f"{graph!r} ({reason})"
            ) from error
        (source,), (target,) = session.get_inputs(), session.get_outputs()

        def run(array: NDArray[Any]) -> NDArray[Any]:
            (result,) = session.run([target.name], {source.name: array})
            out: NDArray[Any] = result
            return out

        return run
