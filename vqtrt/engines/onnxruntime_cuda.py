"""ONNX Runtime on an NVIDIA GPU, by its CUDA provider.

ONNX Runtime goes on with the CPU where that provider cannot be used, and tells so on standard error
alone: here it is asked, and what it says becomes the error.
"""

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

from vqtrt.engines import cuda
from vqtrt.engines.base import Binding, BoundGraph
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine, load_onnxruntime
from vqtrt.engines.onnxruntime_cuda_bound import CudaBound, Resident
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.precision import graph_key

_PROVIDER = "CUDAExecutionProvider"
_OPTIONS = {
    # By default it rounds float32 to 10 bits before a product, which would flip codes.
    "use_tf32": "0",
    # By default it times all algorithms again for each shape, and takes one or another.
    "cudnn_conv_algo_search": "HEURISTIC",
}
_IDENTITY = (
    b'\x08\t\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01'
    b"\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x14"
)
"""An ONNX model: y = x, one float."""
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


class OnnxRuntimeCudaEngine(OnnxRuntimeEngine):
    """A bundle's graphs in ONNX Runtime on the GPU of `options.device`.

    Raises `VqtrtError` with the first cause if CUDA cannot be used here: no driver, no such GPU, a
    library that is missing, or an onnxruntime for the CPU. A pickle opens it again, on the GPU of
    the process that unpickles.
    """

    name = "onnxruntime-cuda"
    shape_specialized = True
    turn = threading.RLock()
    """Held while a session is made or run: the GPU takes one at a time anyway, and what another
    thread allocates would spoil a CUDA graph that is being captured."""

    def __init__(self, bundle: Bundle, options: EngineOptions = AUTO) -> None:
        super().__init__(bundle, options)
        self.gpu = options.device
        self.known: WeakValueDictionary[int, Resident] = WeakValueDictionary()
        """Outputs of bound graphs that are on the GPU, by the address of the array on the host."""
        self._not_loaded = self._load_libraries()
        self._new_session(_IDENTITY, "a first session")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.bundle, self.options)

    def _count_streams(self) -> int:
        return 1

    def _bind(self, graph: str, sizes: Mapping[str, int], how: Binding) -> BoundGraph:
        """As `Engine.bind`; `threads` has no meaning on a GPU."""
        graph = graph_key(self.precision, graph)
        return CudaBound(self, graph, self.bundle.graph_spec(graph), sizes, how)

    def capturing_session(self, graph: str) -> Any:
        """A session that captures its runs as CUDA graphs; for one bound graph.

        Raises `VqtrtError` if the graph cannot be captured.
        """
        content = self.bundle.graph_bytes(graph)
        return self._new_session(content, f"the graph {graph!r}", enable_cuda_graph="1")

    def _make_session(self, graph: str, threads: int | None) -> Any:
        return self._new_session(self.bundle.graph_bytes(graph), f"the graph {graph!r}")

    def _new_session(self, content: bytes, what: str, **options: str) -> Any:
        onnxruntime = load_onnxruntime()
        self._require_gpu()
        providers = [
            (_PROVIDER, {"device_id": str(self.gpu)} | _OPTIONS | options),
            ("CPUExecutionProvider", {}),
        ]
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # its errors are raised as well
        with self.turn, _native_errors() as said:
            try:
                # Its fallback would print, and run on the CPU.
                session = onnxruntime.InferenceSession(
                    content, settings, providers=providers, enable_fallback=0
                )
            except Exception as error:
                raise VqtrtError(
                    f"{self.bundle.path}: onnxruntime {onnxruntime.__version__} refuses {what} on "
                    f"{_PROVIDER} ({' '.join(str(error).split())})"
                ) from error
        if _PROVIDER not in session.get_providers():
            causes = [*self._not_loaded, *said, "it does not say why"]
            raise VqtrtError(
                f"onnxruntime {onnxruntime.__version__} cannot use CUDA here ({causes[0]}): "
                'pip install "vqtrt[gpu]" brings the libraries, and the driver must support their '
                "version of CUDA; or pass --engine onnxruntime"
            )
        return session

    def _load_libraries(self) -> list[str]:
        """Load CUDA's libraries from where pip puts them; why some cannot be loaded."""
        onnxruntime = load_onnxruntime()
        if _PROVIDER not in onnxruntime.get_available_providers():
            raise VqtrtError(
                f"onnxruntime {onnxruntime.__version__} here has no {_PROVIDER}: "
                'pip uninstall onnxruntime, then pip install "vqtrt[gpu]"'
            )
        self._require_gpu()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            onnxruntime.preload_dlls()
        lines = printed.getvalue().splitlines()
        return [line.partition(": ")[2] for line in lines if line.startswith("Failed to load ")]

    def _require_gpu(self) -> None:
        """Raise `VqtrtError` if there is no driver or no GPU."""
        try:
            cuda.runtime()
        except VqtrtError:
            return  # ONNX Runtime does without cuda-python
        cuda.check_gpu(self.gpu)


@contextlib.contextmanager
def _native_errors() -> Iterator[list[str]]:
    """What ONNX Runtime writes to standard error meanwhile: its messages, errors first.

    They are not shown; lines of others are.
    """
    messages: list[str] = []
    try:
        shown = os.dup(2)
    except OSError:  # closed
        yield messages
        return
    # In memory: a container may have no folder to write to.
    with os.fdopen(os.memfd_create("vqtrt-stderr"), "w+b") as file:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            file.seek(0)
            lines = _COLOR.sub("", file.read().decode(errors="replace")).splitlines(keepends=True)
            ours = [line for line in lines if ":onnxruntime:" in line]
            os.write(
                2, "".join(line for line in lines if line.strip() and line not in ours).encode()
            )
            for severity in ("[E:", "[W:"):
                messages += [_message(line) for line in ours if severity in line]


def _message(line: str) -> str:
    """The text of a logged line, without where it was logged."""
    _, found, cause = line.partition(" with error: ")
    text = cause if found else line.partition("] ")[2]
    return " ".join(text.split())
