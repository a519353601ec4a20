"""ONNX Runtime's CUDA provider, pretended on its CPU provider: it refuses what the real one does.

What the real one does wrong without a word is refused here too: a replayed CUDA graph reads and
writes the addresses that it was captured with, whatever is bound.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
import pytest

from vqtrt.engines import cuda

PROVIDER = "CUDAExecutionProvider"
_OPTIONS = {"device_id", "use_tf32", "cudnn_conv_algo_search", "enable_cuda_graph"}
"""Of the real provider, those that are used here."""
_SKIP = -1
_REAL_SESSION, _REAL_VALUE = onnxruntime.InferenceSession, onnxruntime.OrtValue

NOT_LOADED = (
    "\x1b[1;31m2026-11-26 01:44:13.117005828 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 "
    "operator()] /onnxruntime_src/provider_bridge_ort.cc:2043 Provider& ProviderLibrary::Get() "
    "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with "
    "error: libcublasLt.so.13: cannot open shared object file: No such file or directory\x1b[m\n\n"
)
"""What onnxruntime-gpu 1.31 writes to standard error before it goes on with the CPU."""


class Cuda:
    """The pretended GPU: what is known of it, and what it is to refuse."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.copies: list[int] = []
        """Bytes of each copy to the GPU."""
        self.loads = True
        """Whether the provider's libraries load."""
        self.capturable = True
        """Whether all nodes are on the provider; a session that is to capture needs that."""
        self.capture_fails = False
        self._busy = threading.Lock()

    @contextmanager
    def working(self) -> Iterator[None]:
        """A call that may allocate, which fails while another thread captures."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        try:
            time.sleep(0)  # let other threads run
            yield
        finally:
            self._busy.release()


class Binding:
    """An IO binding that knows its addresses."""

    def __init__(self, session: Any) -> None:
        self.real = session.io_binding()
        self.places: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, device: str, *place: Any) -> None:
        assert device == "cuda"
        self.places[name] = place
        self.real.bind_input(name, "cpu", 0, *place[1:])

    def bind_output(self, name: str, device: str, *place: Any) -> None:
        assert device == "cuda"
        self.places[name] = place
        self.real.bind_output(name, "cpu", 0, *place[1:])


class Session:
    """`InferenceSession`, as far as the engine uses it."""

    def __init__(
        self, gpu: Cuda, content: bytes, settings: Any, providers: list[Any], enable_fallback: int
    ) -> None:
        (name, options), (last, _) = providers
        assert (name, last) == (PROVIDER, "CPUExecutionProvider")
        if unknown := set(options) - _OPTIONS:
            raise RuntimeError(f"Unknown provider option: {unknown}")
        if options["device_id"] not in ("0", "1"):
            raise RuntimeError("CUDA failure 101: invalid device ordinal")
        assert not enable_fallback, "it would print, and run on the CPU"
        self.gpu, self.options = gpu, options
        self.captures = options.get("enable_cuda_graph") == "1"
        if self.captures and not gpu.capturable:
            raise RuntimeError(
                "This session cannot use the graph capture feature as requested by the user as all "
                "compute graph nodes have not been partitioned to the CUDAExecutionProvider"
            )
        self.captured: dict[int, dict[str, tuple[Any, ...]]] = {}
        self.runs = 0
        with gpu.working():
            self._real = _REAL_SESSION(content, settings, providers=["CPUExecutionProvider"])
        if not gpu.loads:
            os.write(2, NOT_LOADED.encode())
        gpu.sessions.append(self)

    def get_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"] if self.gpu.loads else ["CPUExecutionProvider"]

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def io_binding(self) -> Binding:
        return Binding(self._real)

    def run(self, names: Any, inputs: Any) -> Any:
        assert not self.captures, "a captured graph would read what this run has freed"
        with self.gpu.working():
            return self._real.run(names, inputs)

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        graph = self._graph_id(options)
        with self.gpu.working():
            self.runs += 1
            if not self.captures or graph == _SKIP:
                self._real.run_with_iobinding(binding.real)
            elif graph in self.captured:
                assert self.captured[graph] == binding.places, "a replay uses the old addresses"
                self._real.run_with_iobinding(binding.real)
            else:
                # The real one runs once to allocate, captures the next run, and replays that.
                self._real.run_with_iobinding(binding.real)
                if self.gpu.capture_fails:
                    raise RuntimeError("CUDA failure 901: operation failed due to a previous error")
                self.captured[graph] = dict(binding.places)
                self._real.run_with_iobinding(binding.real)

    def _graph_id(self, options: Any) -> int:
        try:
            return int(options.get_run_config_entry("gpu_graph_id"))
        except (AttributeError, RuntimeError):  # none, or none set
            return 0


class _Value:
    """`OrtValue` on the GPU."""

    def __init__(self, gpu: Cuda, shape: Any, kind: Any) -> None:
        self._gpu, self._real = gpu, _REAL_VALUE.ortvalue_from_shape_and_type(shape, kind)

    def data_ptr(self) -> int:
        return int(self._real.data_ptr())

    def numpy(self) -> Any:
        with self._gpu.working():
            return self._real.numpy().copy()

    def update_inplace(self, array: Any) -> None:
        with self._gpu.working():
            self._gpu.copies.append(array.nbytes)
            self._real.update_inplace(array)


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Make believe that onnxruntime-gpu is installed, on a machine with two GPUs."""
    gpu = Cuda()

    def session(content: bytes, settings: Any, *, providers: Any, enable_fallback: int = 1) -> Any:
        if providers == ["CPUExecutionProvider"]:  # of the engine on the CPU
            return _REAL_SESSION(content, settings, providers=providers)
        return Session(gpu, content, settings, providers, enable_fallback)

    class OrtValue:
        @staticmethod
        def ortvalue_from_shape_and_type(shape: Any, kind: Any, device: str, number: int) -> _Value:
            assert (device, number) in (("cuda", 0), ("cuda", 1))
            assert np.prod(shape) > 0
            with gpu.working():
                return _Value(gpu, shape, kind)

    def preload() -> None:
        if not gpu.loads:
            print("Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object")
            print("Please follow https://onnxruntime.ai/docs/install/ to install CUDA.")

    replaced: dict[str, Callable[..., Any] | type] = {
        "InferenceSession": session,
        "OrtValue": OrtValue,
        "preload_dlls": preload,
        "get_available_providers": lambda: [PROVIDER, "CPUExecutionProvider"],
    }
    for name, double in replaced.items():
        monkeypatch.setattr(onnxruntime, name, double)
    monkeypatch.setattr(cuda, "check_gpu", lambda *device: None)
    return gpu
