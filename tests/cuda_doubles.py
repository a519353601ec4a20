"""Stand-ins for CUDA, over host memory, where there is no GPU.

Queued work is done when somebody waits for its stream: as late as CUDA may do it, so that a host
that does not wait reads what was there before, or sees its input overwritten. Memory is filled
with junk. What CUDA refuses is refused here.
"""

import ctypes
import enum
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class Mode(enum.IntEnum):
    cudaStreamCaptureModeRelaxed = 2


class Queued(NamedTuple):
    """Work in a stream, and the memory that it touches as (address, bytes)."""

    run: Callable[[], object]
    touches: tuple[tuple[int, int], ...] = ()


ANYWHERE = {
    "cudaSetDevice",  # which makes that of its GPU
    "cudaDriverGetVersion",
    "cudaGetDevice",
    "cudaGetDeviceCount",
    "cudaGetErrorName",
    "cudaGetErrorString",
}
"""Calls that make no CUDA context."""


class FakeCuda:
    """`cuda.bindings.runtime`. `fails` gives a status to the names of calls that are to fail."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = Kind
    cudaStreamCaptureMode = Mode

    def __init__(self, devices: int = 1, driver: int = 13000, memory_bytes: int = 2**40) -> None:
        self.devices, self.driver, self.memory_bytes = devices, driver, memory_bytes
        self.fails: dict[str, int] = {}
        self.memory: dict[int, tuple[NDArray[Any], int]] = {}  # by address, of the "GPU"
        self.hosts: dict[int, tuple[Any, int]] = {}
        self.queues: dict[int, list[Queued] | None] = {}
        self.capturing: dict[int, list[Queued] | None] = {}
        self.calls: list[str] = []
        self.contexts: set[int] = set()  # GPUs that the process uses
        self.gpus: dict[int, int] = {}  # that of each stream and each address
        self._threads = threading.local()

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any) -> Any:
            if name != "cudaGetDevice":  # asked before all else
                self.calls.append(name)
            if self.fails.get(name):
                return (self.fails[name], None)
            if name not in ANYWHERE:
                self.contexts.add(self._current())
                self._threads.used = True
            return found(*arguments)

        return call

    def _current(self) -> int:
        return int(getattr(self._threads, "device", 0))

    def _has_context(self) -> bool:
        """Whether this thread has one."""
        return bool(getattr(self._threads, "used", False))

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return 0, self.driver

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return (0 if self.driver else 35), self.devices

    def cudaGetDevice(self) -> tuple[int, int]:
        return 0, self._current()

    def cudaSetDevice(self, device: int) -> tuple[int]:
        if not 0 <= device < self.devices:
            return (101,)
        self._threads.device, self._threads.used = device, True
        self.contexts.add(device)
        return (0,)

    def cudaGetErrorName(self, error: int) -> tuple[int, bytes]:
        return 0, b"cudaErrorFake"

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, f"status {int(error)}".encode()

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:
        if sum(nbytes for _, nbytes in tuple(self.memory.values())) + size > self.memory_bytes:
            return 2, None
        block = np.full(size + 256, 0xCD, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.memory[address], self.gpus[address] = (block, size), self._current()
        return 0, address

    def cudaFree(self, devPtr: int) -> tuple[int]:
        self._refuse_in_flight(devPtr, self.memory[devPtr][1])
        self.memory.pop(devPtr)
        return (0,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, 0xCD, size)
        self.hosts[ctypes.addressof(block)] = block, size
        return 0, ctypes.addressof(block)

    def cudaFreeHost(self, ptr: int) -> tuple[int]:
        self._refuse_in_flight(ptr, self.hosts[ptr][1])
        self.hosts.pop(ptr)
        return (0,)

    def _refuse_in_flight(self, address: int, nbytes: int) -> None:
        for queue in tuple(self.queues.values()):
            for work in queue or ():
                for start, count in work.touches:
                    assert not (start < address + nbytes and address < start + count), (
                        "memory is freed that queued work uses"
                    )

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        stream = 1000 + len(self.queues)
        self.queues[stream], self.gpus[stream] = [], self._current()
        return 0, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        for work in self.queues[stream] or ():  # what is queued is done all the same
            work.run()
        self.queues[stream] = None
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        if stream in self.capturing:
            self.capturing[stream] = None  # the capture is spoilt
            return (900,)
        queue, self.queues[stream] = self.queues[stream], []
        for work in queue or ():
            work.run()
        return (0,)

    def _queue(self, stream: int, work: Queued) -> int:
        if self._current() != self.gpus[stream]:
            return 400  # cudaErrorInvalidResourceHandle
        self._append(stream, work)
        return 0

    def _append(self, stream: int, work: Queued) -> None:
        queue = self.capturing[stream] if stream in self.capturing else self.queues[stream]
        if queue is not None:
            queue.append(work)

    def _owns(self, blocks: Mapping[int, tuple[Any, int]], address: int, nbytes: int) -> bool:
        return any(
            a <= address and address + nbytes <= a + n for a, (_, n) in tuple(blocks.items())
        )

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Kind, stream: int
    ) -> tuple[int]:
        sides = {
            Kind.cudaMemcpyHostToDevice: (self.memory, self.hosts),
            Kind.cudaMemcpyDeviceToHost: (self.hosts, self.memory),
            Kind.cudaMemcpyDeviceToDevice: (self.memory, self.memory),
        }
        to, source = sides[kind]
        if not (self._owns(to, dst, count) and self._owns(source, src, count)):
            return (1,)
        if abs(dst - src) < count:  # the two overlap
            return (1,)
        touches = ((dst, count), (src, count))
        self._append(stream, Queued(lambda: ctypes.memmove(dst, src, count), touches))
        return (0,)

    def cudaMemcpy2DAsync(
        self,
        dst: int,
        dpitch: int,
        src: int,
        spitch: int,
        width: int,
        height: int,
        kind: Kind,
        stream: int,
    ) -> tuple[int]:
        touches = tuple(
            (at, (height - 1) * pitch + width) for at, pitch in ((dst, dpitch), (src, spitch))
        )
        inside = all(self._owns(self.memory, *span) for span in touches)
        if kind != Kind.cudaMemcpyDeviceToDevice or min(dpitch, spitch) < width or not inside:
            return (1,)

        def work() -> None:
            for row in range(height):
                ctypes.memmove(dst + row * dpitch, src + row * spitch, width)

        self._append(stream, Queued(work, touches))
        return (0,)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: int) -> tuple[int]:
        if not self._owns(self.memory, devPtr, count):
            return (1,)
        work = Queued(lambda: ctypes.memset(devPtr, value, count), ((devPtr, count),))
        return (self._queue(stream, work),)

    def cudaStreamBeginCapture(self, stream: int, mode: Mode) -> tuple[int]:
        self.capturing[stream] = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, Any]:
        queue = self.capturing.pop(stream)
        return (901, None) if queue is None else (0, queue)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:
        return 0, tuple(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[int]:
        return (0,)

    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[int]:
        return (0,)

    def cudaGraphLaunch(self, graphExec: Iterable[Queued], stream: int) -> tuple[int]:
        return (max((self._queue(stream, work) for work in graphExec), default=0),)


class FakeDriver:
    """`cuda.bindings.driver`, as far as it says which GPUs a process uses."""

    def __init__(self, api: FakeCuda) -> None:
        self._api = api

    def cuDevicePrimaryCtxGetState(self, dev: int) -> tuple[int, int, int]:
        return 0, 0, int(dev in self._api.contexts)


def array_at(address: int, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """The array at an address."""
    count = math.prod(shape)
    kind = np.dtype(dtype)
    memory: Any = (ctypes.c_uint8 * max(count * kind.itemsize, 1)).from_address(address)
    return np.frombuffer(memory, kind, count=count).reshape(shape)
