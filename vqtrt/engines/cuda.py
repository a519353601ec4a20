"""CUDA's runtime, as far as the engines on NVIDIA GPUs need it, through cuda-python.

Every call is checked: what CUDA refuses becomes a `VqtrtError`. Memory, streams and graphs are
freed when the last reference to them goes, or by `close`. Nothing here is loaded before it is
used: the module can be imported on any machine.

CUDA has a current GPU for each thread, and other libraries of the process change it. So whatever
depends on it runs inside of `on_device`.
"""

import ctypes
import logging
import math
import os
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vqtrt.errors import VqtrtError

GRAPHS_VARIABLE = "VQTRT_CUDA_GRAPHS"
ALIGNMENT = 256
"""Bytes that a tensor's address is a multiple of: what `cudaMalloc` gives and TensorRT expects."""

_OUT_OF_MEMORY = 2
_NO_DRIVER = (34, 35)  # cudaErrorStubLibrary, cudaErrorInsufficientDriver
_NO_DEVICE = 100
_NOT_INITIALIZED = 3
_NOT_CAPTURABLE = "TensorRT says that this engine cannot be captured now"
_OTHER = "or pass --engine onnxruntime, which needs no GPU"


def runtime() -> Any:
    """The module `cuda.bindings.runtime`."""
    try:
        from cuda.bindings import runtime as module
    except ImportError:
        raise VqtrtError(
            'engines on NVIDIA GPUs need cuda-python: pip install "vqtrt[rtx]" or "vqtrt[gpu]", '
            f"{_OTHER}"
        ) from None
    return module


def driver() -> Any:
    """The module `cuda.bindings.driver`."""
    from cuda.bindings import driver as module

    return module


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the runtime: its result, several as a tuple; `VqtrtError` if it fails."""
    status, *results = getattr(runtime(), name)(*arguments)
    if int(status):
        raise VqtrtError(explain(name, status))
    return results[0] if len(results) == 1 else tuple(results)


def visible_gpus() -> int:
    """NVIDIA GPUs that this process sees; 0 without a driver or cuda-python."""
    try:
        status, count = runtime().cudaGetDeviceCount()
    except VqtrtError:
        return 0
    return 0 if int(status) else int(count)


def explain(name: str, status: Any) -> str:
    """What to tell of a failed call, in one line."""
    api = runtime()
    code = int(status)
    if code in _NO_DRIVER:
        _, version = api.cudaDriverGetVersion()
        if not version:
            return f"no CUDA driver on this machine: install NVIDIA's driver, {_OTHER}"
        major, known = version // 1000, f"{version // 1000}.{version % 1000 // 10}"
        older = (
            f"install packages for CUDA {major} "
            f'(pip install "cuda-python<{major + 1}" tensorrt-cu{major}, or tensorrt-rtx-cu{major} '
            "for TensorRT for RTX; see docs/tensorrt.md)"
        )
        return (
            f"the CUDA driver is too old for the installed cuda-python (it knows CUDA {known}): "
            f"update the driver, or {older}, {_OTHER}"
        )
    if code == _NO_DEVICE:
        return f"no NVIDIA GPU can be used here: see nvidia-smi and CUDA_VISIBLE_DEVICES, {_OTHER}"
    if code == _NOT_INITIALIZED:
        return (
            "CUDA cannot be used in a process that was forked after CUDA was used: start it with "
            f"multiprocessing's `spawn`, {_OTHER}"
        )
    if code == _OUT_OF_MEMORY:
        return f"out of GPU memory in {name}: a smaller --batch-size needs less"
    title, text = (
        ask(status)[1].decode(errors="replace")
        for ask in (api.cudaGetErrorName, api.cudaGetErrorString)
    )
    return f"CUDA failed in {name} ({title}: {text}); run again in a new process, {_OTHER}"


def graphs_wanted() -> bool:
    """Whether work may be captured as CUDA graphs: not if `$VQTRT_CUDA_GRAPHS` is 0."""
    return os.environ.get(GRAPHS_VARIABLE) != "0"


def check_gpu(device: int = 0) -> None:
    """Raise `VqtrtError` if there is no driver, no GPU, or no GPU of this index."""
    count = int(call("cudaGetDeviceCount"))
    if not count:
        raise VqtrtError(explain("cudaGetDeviceCount", _NO_DEVICE))
    if not 0 <= device < count:
        numbers = "only GPU 0" if count == 1 else f"GPUs 0 to {count - 1}"
        raise VqtrtError(
            f"no GPU {device}: CUDA shows {numbers} here; see --device, nvidia-smi and "
            "CUDA_VISIBLE_DEVICES"
        )


class on_device:  # noqa: N801 - a context manager, in the spelling of the standard library's
    """Make a GPU the current one of this thread while the block runs.

    The GPU that was current is made so again, unless the process does not use it yet: CUDA would
    begin to, which takes hundreds of MB there.
    """

    def __init__(self, device: int) -> None:
        self._device, self._before = device, device

    def __enter__(self) -> None:
        status, before = runtime().cudaGetDevice()
        if status:
            raise VqtrtError(explain("cudaGetDevice", status))
        self._before = before
        if before != self._device:
            call("cudaSetDevice", self._device)

    def __exit__(self, *error: object) -> None:
        if self._before != self._device and _in_use(self._before):
            call("cudaSetDevice", self._before)


def _in_use(device: int) -> bool:
    """Whether the process has a CUDA context on a GPU."""
    try:
        status, _, active = driver().cuDevicePrimaryCtxGetState(device)
    except (ImportError, RuntimeError):  # RuntimeError: no driver library
        return False
    return not int(status) and bool(active)


def _owned(owner: Any, free: str, handle: Any) -> Any:
    """A finalizer that frees `handle` once; not at exit, when the process frees all."""
    finalizer = weakref.finalize(owner, _free, runtime(), free, handle, int(call("cudaGetDevice")))
    finalizer.atexit = False
    return finalizer


def _free(api: Any, free: str, handle: Any, device: int) -> None:
    """Free a handle of a GPU, in whichever thread the last reference went."""
    before = int(api.cudaGetDevice()[1])
    if before != device:  # CUDA would begin to use the current one
        api.cudaSetDevice(device)
    # Whatever it answers, there is nothing left to do about the handle.
    getattr(api, free)(handle)
    if before != device and _in_use(before):
        api.cudaSetDevice(before)


class DeviceArray:
    """Memory on the current GPU, uninitialised."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address = int(call("cudaMalloc", max(nbytes, ALIGNMENT)))
        self.host: NDArray[Any] | None = None
        """The pinned array that it is copied to, where there is one."""
        self.close = _owned(self, "cudaFree", self.address)


def pinned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros in page-locked memory, freed with the last view of it."""
    kind = np.dtype(dtype)
    nbytes = max(math.prod(shape) * kind.itemsize, 1)
    address = int(call("cudaHostAlloc", nbytes, 0))
    memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
    # Every view of the array holds `memory`, so it is the one to watch.
    _owned(memory, "cudaFreeHost", address)
    array: NDArray[Any] = np.frombuffer(memory, kind, count=math.prod(shape)).reshape(shape)
    array[...] = 0
    return array


class Stream:
    """Work on the current GPU in the order in which it was queued; only `wait` waits for it.

    Any thread may use it, whichever GPU is current there.
    """

    def __init__(self) -> None:
        self.device = int(call("cudaGetDevice"))
        self._stream = call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking)
        self.close = _owned(self, "cudaStreamDestroy", self._stream)

    def __int__(self) -> int:
        return int(self._stream)

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of a contiguous pinned array to the GPU."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        with on_device(self.device):
            call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the GPU into a contiguous pinned array."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        with on_device(self.device):
            call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Queue a copy inside the GPU; the two pieces of memory do not overlap."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToDevice
        with on_device(self.device):
            call("cudaMemcpyAsync", to, source, nbytes, kind, self._stream)

    def copy_column(self, to: int, source: int, stride: int, rows: int) -> None:
        """Queue a copy inside the GPU of `rows` 4-byte numbers, which lie `stride` bytes apart."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToDevice
        with on_device(self.device):
            call("cudaMemcpy2DAsync", to, 4, source, stride, 4, rows, kind, self._stream)

    def zero(self, address: int, nbytes: int) -> None:
        """Queue the zeroing of memory on the GPU."""
        if nbytes:
            with on_device(self.device):
                call("cudaMemsetAsync", address, 0, nbytes, self._stream)

    def wait(self) -> None:
        """Wait until all that was queued is done."""
        call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> "Captured":
        """What `work` queues on this stream as a graph; none of it runs now."""
        with on_device(self.device):
            return self._capture(work)

    def _capture(self, work: Callable[[], None]) -> "Captured":
        api = runtime()
        # Relaxed: a finalizer that frees memory meanwhile must not spoil the capture.
        mode = api.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            api.cudaStreamEndCapture(self._stream)
            raise
        graph = call("cudaStreamEndCapture", self._stream)
        try:
            return Captured(call("cudaGraphInstantiate", graph, 0))
        finally:
            api.cudaGraphDestroy(graph)

    def launch(self, captured: "Captured") -> None:
        """Queue a captured graph."""
        with on_device(self.device):
            call("cudaGraphLaunch", captured.executable, self._stream)


class Captured:
    """A graph of captured work; it holds the addresses that the work was queued with."""

    def __init__(self, executable: Any) -> None:
        self.executable = executable
        self.close = _owned(self, "cudaGraphExecDestroy", executable)


class Repeated:
    """Work that is queued again and again with the same addresses and shapes.

    At first plainly, which lets TensorRT prepare itself; the second time in a row it is captured
    into a CUDA graph, which is one launch from then on. Work of another key drops the graph: a
    graph is only good as long as its context keeps its shapes. What cannot be captured goes on
    plainly; `refused` says why, and so does the log, once. `capturable` is asked right before the
    capture: an engine may know only after a run.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        enabled: bool = True,
        capturable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._stream, self._enabled, self._capturable = stream, enabled, capturable
        self._key: object = None
        self._graph: Captured | None = None
        self.refused: str | None = None

    @property
    def captured(self) -> bool:
        """Whether a graph is at hand."""
        return self._graph is not None

    def run(self, key: object, work: Callable[[], None]) -> None:
        """Queue the work; `key` says what it depends on."""
        again, self._key = self._key == key, key
        if not again:
            self._graph = None
        elif self._graph is None and self._enabled and self.refused is None:
            try:
                if not self._capturable():
                    raise VqtrtError(_NOT_CAPTURABLE)
                self._graph = self._stream.capture(work)
            except VqtrtError as error:
                self.refused = str(error)
                warn_slower(self.refused)
        if self._graph is None:
            work()
        else:
            self._stream.launch(self._graph)


@cache
def warn_slower(reason: str) -> None:
    """Say once in a process why work is slower than it could be."""
    logging.getLogger("vqtrt").warning("runs without CUDA graphs, which is slower: %s", reason)
