"""Stand-ins for CUDA and TensorRT, over host memory, where there is no GPU.

Queued work is done when somebody waits for its stream: as late as CUDA may do it, so that a host
that does not wait reads what was there before, or sees its input overwritten. Memory is filled
with junk. A plan is an ONNX graph, which ONNX Runtime runs.

What the libraries refuse is refused here, in their own words (`strings libtensorrt_rtx.so.1`).
`REAL` says which class or module each double stands for: every public method of a double is one of
that, with as many parameters.
"""

import ctypes
import enum
import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from vqtrt.engines import cuda
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt import plans
from vqtrt.engines.tensorrt.package import Device, Package
from vqtrt.engines.tensorrt.plan_info import PlanInfo, plan_sha256
from vqtrt.engines.tensorrt.plans import graph_name, write_plan
from vqtrt.export.tensorrt.build import in_loop
from vqtrt.formats.bundle import Bundle, axis_size


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


class FakeRuntimeCache:
    """An `IRuntimeCache`; it holds a line for each kernel that was compiled."""

    def __init__(self, module: "FakeTensorRT") -> None:
        self._module, self._lines = module, b"cache\n"

    def serialize(self) -> bytes | None:
        if not self._module.api._has_context() or "serialize" in self._module.fails:
            self._module.say(
                "[Runtime Cache]: Failed to capture the device fingerprint; cannot serialize "
                "runtime cache. This can happen if there is no active CUDA context."
            )
            return None
        return self._lines

    def deserialize(self, blob: bytes) -> bool:
        if blob.startswith(b"cache\n"):
            self._lines = bytes(blob)
        return blob.startswith(b"cache\n")


class Strategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class FakeRuntimeConfig:
    """An `IRuntimeConfig`; what is not set is as the library has it."""

    def __init__(self, module: "FakeTensorRT") -> None:
        self._module = module
        self._cache: FakeRuntimeCache | None = None
        self._strategy = Strategy.STATIC
        self.cuda_graph_strategy = module.CudaGraphStrategy.DISABLED
        kernels = module.DynamicShapesKernelSpecializationStrategy
        self.dynamic_shapes_kernel_specialization_strategy = kernels.LAZY

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache(self._module)

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        if "set_runtime_cache" in self._module.fails:
            return False
        self._cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def get_execution_context_allocation_strategy(self) -> Strategy:
        return self._strategy


class FakeLogger:
    """An `ILogger`, which a program's own is a subclass of."""

    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class FakeTensorRT:
    """The module `tensorrt` or `tensorrt_rtx`. `fails` names what is to fail."""

    class TensorIOMode(enum.Enum):
        INPUT = 1
        OUTPUT = 2

    class CudaGraphStrategy(enum.Enum):
        DISABLED = 0
        WHOLE_GRAPH_CAPTURE = 1

    class DynamicShapesKernelSpecializationStrategy(enum.Enum):
        LAZY = 0
        EAGER = 1
        NONE = 2

    class ComputeCapability(enum.Enum):
        NONE = 0
        CURRENT = 1
        SM75 = 75
        SM80 = 80
        SM86 = 86
        SM89 = 89
        SM120 = 120
        SM121 = 121

    ExecutionContextAllocationStrategy = Strategy
    ILogger = FakeLogger

    def __init__(self, api: FakeCuda, capability: str = "8.9") -> None:
        self.__name__ = "tensorrt"
        self.api, self.capability = api, capability
        self.fails: set[str] = set()
        self.capturable = True
        self.contexts: list[FakeContext] = []
        self.loggers: list[Any] = []

    def say(self, text: str) -> None:
        """An error in the log."""
        for logger in self.loggers[-1:]:
            logger.log(self.ILogger.Severity.ERROR, text)

    def _made(self, name: str, logger: Any) -> None:
        self.loggers.append(logger)
        if name in self.fails:
            self.say("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def Runtime(self, logger: Any) -> "FakeRuntime":
        self._made("Runtime", logger)
        return FakeRuntime(self)

    def Builder(self, logger: Any) -> None:
        self._made("Builder", logger)


class FakeRuntime:
    def __init__(self, module: FakeTensorRT) -> None:
        self._module = module

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "FakeEngine | None":
        module = self._module
        if "deserialize_cuda_engine" in module.fails:
            # As it came on a machine without a driver: the cause first, then what follows from it.
            module.say("the plan is\nfor another GPU")
            module.say("[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime ()")
            return None
        known = module.ComputeCapability.__members__
        if f"SM{module.capability.replace('.', '')}" not in known:
            module.say(
                "The engine cannot run on this GPU, which has compute capability "
                f"{module.capability}. TensorRT-RTX does not support this compute capability, so "
                "the engine cannot be rebuilt for it."
            )
            return None
        return FakeEngine(module, serialized_engine)


class FakeEngine:
    num_optimization_profiles = 1

    def __init__(self, module: FakeTensorRT, content: bytes) -> None:
        head, _, graph = content.partition(b"\0")
        self._module, self._facts = module, json.loads(head)
        self._device = module.api._current()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self._tensors = {t["name"]: t for t in (*self._facts["inputs"], *self._facts["outputs"])}
        self.num_io_tensors = len(self._tensors)

    @property
    def device_memory_size_v2(self) -> int:
        most = {name: shapes[2] for name, shapes in self._facts["profile"].items()}
        return self._need(most)

    def _need(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Bytes of memory that a context takes at shapes of the inputs: a made-up number."""
        return sum(
            2 * -(-math.prod(self._shape(name, shapes)) * self._itemsize(name) // 256) * 256
            for name in self._tensors
        )

    def _itemsize(self, name: str) -> int:
        return int(np.dtype(self._tensors[name]["dtype"]).itemsize)

    def _shape(self, name: str, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """Of a tensor, at shapes of the inputs."""
        sizes: dict[str, int] = {}
        for tensor in self._facts["inputs"]:
            for size, number in zip(tensor["shape"], shapes[tensor["name"]], strict=True):
                if isinstance(size, str):
                    factor, _, free = size.rpartition("*")
                    sizes[free] = number // int(factor or 1)
        found = [axis_size(size, sizes) for size in self._tensors[name]["shape"]]
        return tuple(-1 if size is None else size for size in found)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._tensors)[index])

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._module.TensorIOMode
        return mode.INPUT if name in self._facts["profile"] else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return np.dtype(self._tensors[name]["dtype"])

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1 if isinstance(n, str) else n for n in self._tensors[name]["shape"]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        assert profile_index == 0
        return self._facts["profile"][name]

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig(self._module)

    def create_execution_context(
        self, how: "Strategy | FakeRuntimeConfig | None" = None, /
    ) -> "FakeContext | None":
        config = how if isinstance(how, FakeRuntimeConfig) else None
        strategy = config._strategy if config else how or Strategy.STATIC
        if "create_execution_context" in self._module.fails:
            self._module.say("no context today")
            return None
        if self._facts["capturable"] and strategy != Strategy.USER_MANAGED:
            self._module.say(
                "Engine was built with BuilderFlag::kREQUIRE_USER_ALLOCATION. Execution context "
                "creation requires ExecutionContextAllocationStrategy::kUSER_MANAGED allocation "
                "strategy."
            )
            return None
        context = FakeContext(self, config, strategy)
        if strategy == Strategy.STATIC:  # of the largest shapes, and never freed
            need = self.device_memory_size_v2
            context._memory = self._module.api.cudaMalloc(need)[1], need
        self._module.contexts.append(context)
        return context


class FakeContext:
    def __init__(self, engine: FakeEngine, config: FakeRuntimeConfig | None, strategy: Any) -> None:
        self._engine, self._config, self._strategy = engine, config, strategy
        self._module, self._api = engine._module, engine._module.api
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int | None, int] = None, 0
        self.ran: set[tuple[Any, ...]] = set()
        """The shapes that it ran at."""
        self._last: tuple[Any, ...] | None = None
        """Those of the last run that was not captured."""
        self._need: int | None = None
        """Bytes that it said it needs at its shapes; None when they changed since."""

    def _now(self) -> tuple[Any, ...]:
        return tuple(sorted(self._shapes.items()))

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        least, _, most = self._engine._facts["profile"][name]
        if len(shape) != len(least) or not all(
            a <= b <= c for a, b, c in zip(least, shape, most, strict=True)
        ):
            self._module.say(f"{name} does not satisfy any optimization profiles.")
            return False
        self._shapes[name], self._need = tuple(shape), None
        return True

    def infer_shapes(self) -> list[str]:
        if "infer_shapes" in self._module.fails:
            raise RuntimeError("shape inference failed")
        return [name for name in self._engine._facts["profile"] if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._engine._shape(name, self._shapes)

    def update_device_memory_size_for_shapes(self) -> int:
        if self._strategy != Strategy.USER_MANAGED:
            self._module.say(
                "The context needs to be created with "
                "ExecutionContextAllocationStrategy::kUSER_MANAGED for runtime allocation size to "
                "work."
            )
            return 0
        self._need = self._engine._need(self._shapes)
        return self._need

    def set_device_memory(self, memory: int, size: int) -> None:
        need = self._engine.device_memory_size_v2 if self._need is None else self._need
        if self._strategy != Strategy.USER_MANAGED:
            self._module.say(
                "setDeviceMemory: Context not created with user managed device memory, cannot set "
                "buffer"
            )
        elif size < need:
            self._module.say(
                "setDeviceMemoryV2: The provided memory size is too small. Provided "
                f"{size}, but need {need}"
            )
        elif memory % 256 or not self._api._owns(self._api.memory, memory, size):
            self._module.say("setDeviceMemory: memory must be aligned on 256 bytes")
        else:
            self._memory = memory, size

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory % 256 == 0

    def is_stream_capturable(self, stream: int) -> bool:
        # Its kernels are compiled by a run, and it cannot tell before.
        return self._module.capturable and self._last == self._now()

    def _refusal(self, stream: int) -> str | None:
        """Why it does not run, in the library's words."""
        address, size = self._memory
        need = self._engine.device_memory_size_v2 if self._need is None else self._need
        if "execute_async_v3" in self._module.fails:
            return "enqueue failed"
        if self._api._current() != self._engine._device:
            return "CUDA error 400 for enqueueV3 on the stream: invalid resource handle"
        if address is None or size < need or address not in self._api.memory:
            return (
                f"The engine needs {need} bytes of device memory. The IExecutionContext is created "
                "with ExecutionContextAllocationStrategy::kUSER_MANAGED. "
                "IExecutionContext::setDeviceMemoryV2 should be called before enqueue/execute."
            )
        if missing := [name for name in self._engine._tensors if name not in self._addresses]:
            return (
                f"Address is not set for input tensor {missing[0]}. Call setInputTensorAddress or "
                "setTensorAddress before enqueue/execute."
            )
        # As TensorRT asks for it: shapes run once before they are captured.
        if stream in self._api.capturing and not self.is_stream_capturable(stream):
            return (
                "The CUDA stream is in capturing mode, but this TRT engine is not stream "
                "capturable."
            )
        return None

    def execute_async_v3(self, stream_handle: int) -> bool:
        api, engine = self._api, self._engine
        if (refusal := self._refusal(stream_handle)) is not None:
            self._module.say(refusal)
            return False
        self.ran.add(self._now())
        if stream_handle not in api.capturing:
            self._last = self._now()
        self._compile()
        arrays = {
            name: array_at(self._addresses[name], self.get_tensor_shape(name), tensor["dtype"])
            for name, tensor in engine._tensors.items()
        }
        assert all(api._owns(api.memory, a.ctypes.data, a.nbytes) for a in arrays.values())
        scratch, size = self._memory
        assert scratch is not None

        def work() -> None:
            reads = {name: arrays[name].copy() for name in engine._facts["profile"]}
            ctypes.memset(scratch, 0xEE, size)
            names = [tensor["name"] for tensor in engine._facts["outputs"]]
            for name, made in zip(names, engine._session.run(names, reads), strict=True):
                arrays[name][...] = made

        touches = ((a.ctypes.data, a.nbytes) for a in arrays.values())
        return api._queue(stream_handle, Queued(work, (*touches, (scratch, size)))) == 0

    def _compile(self) -> None:
        """A kernel for each shape, or with NONE one for all, goes into the runtime cache."""
        if self._config is None or self._config._cache is None:
            return
        kernels = self._module.DynamicShapesKernelSpecializationStrategy
        general = self._config.dynamic_shapes_kernel_specialization_strategy == kernels.NONE
        line = f"kernel {() if general else self._now()}\n".encode()
        if line not in self._config._cache._lines:
            self._config._cache._lines += line


REAL: dict[type, str] = {
    FakeCuda: "cuda.bindings",
    FakeDriver: "cuda.bindings",
    FakeContext: "IExecutionContext",
    FakeEngine: "ICudaEngine",
    FakeLogger: "ILogger",
    FakeRuntime: "Runtime",
    FakeRuntimeCache: "IRuntimeCache",
    FakeRuntimeConfig: "IRuntimeConfig",
}
"""What each double stands for: a package, or a class of `tensorrt_rtx`. `tensorrt` has the same
classes, without `IRuntimeCache`, what makes one, and `is_stream_capturable`."""

VERSIONS = {"tensorrt": "10.13.0", "tensorrt-rtx": "1.7.1"}
GPU = Device("Fake GPU", "8.9")


def pretend(
    monkeypatch: pytest.MonkeyPatch, api: FakeCuda | None = None, gpu: Device = GPU
) -> FakeTensorRT:
    """Make believe that there is a GPU, and both packages. The module that they are."""
    api = api or FakeCuda()
    module = FakeTensorRT(api, gpu.capability)
    monkeypatch.setattr(cuda, "runtime", lambda: api)
    monkeypatch.setattr(cuda, "driver", lambda: FakeDriver(api))
    monkeypatch.setattr(trt_package, "installed", lambda name: True)
    monkeypatch.setattr(trt_package, "device", lambda index=0: gpu)
    monkeypatch.setattr(trt_package, "load", lambda name: Package(name, module, VERSIONS[name]))
    return module


def build(
    bundle: Bundle,
    package: Any,
    sizes: Mapping[str, tuple[int, int]],
    precision: Any = "fp32",
    graphs: Iterable[str] | None = None,
) -> None:
    """Write a bundle's engines, for a profile of (least, most) of each free size."""
    for graph, spec in bundle.info.graphs.items():
        if graphs is not None and graph not in graphs:
            continue
        profile = {
            tensor.name: [
                [
                    axis_size(size, {name: span[end] for name, span in sizes.items()})
                    for size in tensor.shape
                ]
                for end in (0, 1, 1)
            ]
            for tensor in spec.inputs
        }
        facts = spec.model_dump(mode="json") | {
            "profile": profile,
            "capturable": in_loop(graph) and package == "tensorrt-rtx",
        }
        plan = json.dumps(facts).encode() + b"\0" + bundle.graph_bytes(graph)
        assert graph_name(graph, precision) == graph
        info = PlanInfo.model_validate(
            {
                "graph": graph,
                "graph_sha256": spec.sha256,
                "package": package,
                "package_version": VERSIONS[package],
                "precision": precision,
                "profile": profile,
                "gpu": GPU.name if package == "tensorrt" else None,
                "compute_capabilities": (),
                "capturable": in_loop(graph),
                "plan_sha256": plan_sha256(plan),
                "plan_bytes": len(plan),
                "activation_bytes": None,
                "vqtrt_version": "0",
            }
        )
        write_plan(bundle.path / plans.FOLDER, info, plan, [], [])
