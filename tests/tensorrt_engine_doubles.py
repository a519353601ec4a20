"""Stand-ins for TensorRT's engines and their contexts.

A plan is an ONNX graph, which ONNX Runtime runs. What the library refuses is refused here, in its
own words (`strings libtensorrt_rtx.so.1`).
"""

import ctypes
import enum
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from cuda_doubles import Queued, array_at

from vqtrt.formats.bundle import axis_size

if TYPE_CHECKING:
    from tensorrt_doubles import FakeTensorRT


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


class FakeEngine:
    num_optimization_profiles = 1

    def __init__(self, module: "FakeTensorRT", content: bytes) -> None:
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
