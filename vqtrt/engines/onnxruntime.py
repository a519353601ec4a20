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
        self.weights_sha256 = bundle.info.source.weights_sha256
        self._threads = threads

    def open(self, graph: str) -> Graph:
        """Check the graph's hash, then make a session from the checked bytes."""
        import onnxruntime

        content = self.bundle.graph_bytes(graph)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime raises its own exception classes, which share no base but this one.
            raise VqtrtError(
                f"{self.bundle.path}: onnxruntime {onnxruntime.__version__} refuses the graph "
                f"{graph!r} ({_one_line(error)})"
            ) from error
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
                raise VqtrtError(
                    f"{self.bundle.path}: onnxruntime {onnxruntime.__version__} cannot run the "
                    f"graph {graph!r} on {array.dtype} {array.shape} ({_one_line(error)}); if it "
                    "lacks memory, a smaller batch size needs less"
                ) from error
            out: NDArray[Any] = result
            return out

        return run


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
