"""Stand-ins for CUDA and TensorRT, over host memory, where there is no GPU.

Queued work is done when somebody waits for its stream: as late as CUDA may do it, so that a host
that does not wait reads what was there before, or sees its input overwritten. Memory is filled
with junk. A plan is an ONNX graph, which ONNX Runtime runs.
"""

import ctypes
import enum
import json
import math
from types import SimpleNamespace

import numpy as np
import onnxruntime

from vqtrt.bundle import axis_size
from vqtrt.engines import cuda, plans, trt_package
from vqtrt.engines.plans import PlanInfo, graph_name, plan_sha256, write_plan
from vqtrt.engines.trt_package import Device, Package


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class Mode(enum.IntEnum):
    cudaStreamCaptureModeRelaxed = 2


class FakeCuda:
    """`cuda.bindings.runtime`. `fails` gives a status to the names of calls that are to fail."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = Kind
    cudaStreamCaptureMode = Mode

    def __init__(self, devices=1, driver=13000):
        self.devices, self.driver = devices, driver
        self.fails = {}
        self.memory = {}  # by address, of the "GPU"
        self.hosts = {}
        self.queues = {}
        self.capturing = {}
        self.calls = []

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def call(*arguments):
            self.calls.append(name)
            if self.fails.get(name):
                return (self.fails[name], None)
            return found(*arguments)

        return call

    def cudaDriverGetVersion(self):
        return 0, self.driver

    def cudaGetDeviceCount(self):
        return (0 if self.driver else 35), self.devices

    def cudaGetErrorName(self, status):
        return 0, b"cudaErrorFake"

    def cudaGetErrorString(self, status):
        return 0, f"status {int(status)}".encode()

    def cudaMalloc(self, nbytes):
        block = np.full(nbytes + 256, 0xCD, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.memory[address] = block, nbytes
        return 0, address

    def cudaFree(self, address):
        self.memory.pop(address)
        return (0,)

    def cudaHostAlloc(self, nbytes, flags):
        block = (ctypes.c_uint8 * nbytes)(*b"\xcd" * nbytes)
        self.hosts[ctypes.addressof(block)] = block, nbytes
        return 0, ctypes.addressof(block)

    def cudaFreeHost(self, address):
        self.hosts.pop(address)
        return (0,)

    def cudaStreamCreateWithFlags(self, flags):
        stream = 1000 + len(self.queues)
        self.queues[stream] = []
        return 0, stream

    def cudaStreamDestroy(self, stream):
        self.queues[stream] = None
        return (0,)

    def cudaStreamSynchronize(self, stream):
        if stream in self.capturing:
            return (900,)
        queue, self.queues[stream] = self.queues[stream], []
        for work in queue:
            work()
        return (0,)

    def queue(self, stream, work):
        self.capturing.get(stream, self.queues[stream]).append(work)

    def owns(self, blocks, address, nbytes):
        return any(a <= address and address + nbytes <= a + n for a, (_, n) in blocks.items())

    def cudaMemcpyAsync(self, to, source, nbytes, kind, stream):
        if kind == Kind.cudaMemcpyDeviceToDevice:
            apart = abs(to - source) >= nbytes
            if not (apart and all(self.owns(self.memory, at, nbytes) for at in (to, source))):
                return (1,)
            self.queue(stream, lambda: ctypes.memmove(to, source, nbytes))
            return (0,)
        host, device = (source, to) if kind == Kind.cudaMemcpyHostToDevice else (to, source)
        if not (self.owns(self.hosts, host, nbytes) and self.owns(self.memory, device, nbytes)):
            return (1,)
        self.queue(stream, lambda: ctypes.memmove(to, source, nbytes))
        return (0,)

    def cudaMemcpy2DAsync(self, dst, dpitch, src, spitch, width, height, kind, stream):
        spans = ((dst, dpitch), (src, spitch))
        if kind != Kind.cudaMemcpyDeviceToDevice or not all(
            pitch >= width and self.owns(self.memory, at, (height - 1) * pitch + width)
            for at, pitch in spans
        ):
            return (1,)

        def work():
            for row in range(height):
                ctypes.memmove(dst + row * dpitch, src + row * spitch, width)

        self.queue(stream, work)
        return (0,)

    def cudaMemsetAsync(self, address, value, nbytes, stream):
        if not self.owns(self.memory, address, nbytes):
            return (1,)
        self.queue(stream, lambda: ctypes.memset(address, value, nbytes))
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.capturing[stream] = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        return 0, self.capturing.pop(stream)

    def cudaGraphInstantiate(self, graph, flags):
        return 0, tuple(graph)

    def cudaGraphDestroy(self, graph):
        return (0,)

    def cudaGraphExecDestroy(self, graph):
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        for work in graph:
            self.queue(stream, work)
        return (0,)


def array_at(address, shape, dtype):
    """The array at an address."""
    count = math.prod(shape)
    kind = np.dtype(dtype)
    memory = (ctypes.c_uint8 * max(count * kind.itemsize, 1)).from_address(address)
    return np.frombuffer(memory, kind, count=count).reshape(shape)


class Cache:
    """An `IRuntimeCache`; it holds a line for each context that was compiled."""

    def __init__(self):
        self.lines = b"cache\n"

    def serialize(self):
        return self.lines

    def deserialize(self, blob):
        if blob.startswith(b"cache\n"):
            self.lines = bytes(blob)
        return blob.startswith(b"cache\n")


class FakeTensorRT:
    """The module `tensorrt` or `tensorrt_rtx`. `fails` names methods that are to fail."""

    class TensorIOMode(enum.Enum):
        INPUT = 1
        OUTPUT = 2

    class CudaGraphStrategy(enum.Enum):
        DISABLED = 0
        WHOLE_GRAPH_CAPTURE = 1

    class DynamicShapesKernelSpecializationStrategy(enum.Enum):
        LAZY = 0
        EAGER = 1

    class ILogger:
        class Severity(enum.Enum):
            ERROR = 1
            VERBOSE = 4

    def __init__(self, api):
        self.api = api
        self.fails = set()
        self.capturable = True
        self.contexts = []

    def Runtime(self, logger):
        def load(content):
            if "deserialize_cuda_engine" in self.fails:
                logger.log(self.ILogger.Severity.ERROR, "the plan is\nfor another GPU")
                return None
            return FakeEngine(self, logger, content)

        return SimpleNamespace(deserialize_cuda_engine=load)


class FakeEngine:
    num_optimization_profiles = 1

    def __init__(self, module, logger, content):
        head, _, graph = content.partition(b"\0")
        self.module, self.logger, self.facts = module, logger, json.loads(head)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.tensors = {t["name"]: t for t in (*self.facts["inputs"], *self.facts["outputs"])}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        mode = self.module.TensorIOMode
        return mode.INPUT if name in self.facts["profile"] else mode.OUTPUT

    def get_tensor_dtype(self, name):
        return np.dtype(self.tensors[name]["dtype"])

    def get_tensor_shape(self, name):
        return [-1 if isinstance(n, str) else n for n in self.tensors[name]["shape"]]

    def get_tensor_profile_shape(self, name, profile):
        assert profile == 0
        return self.facts["profile"][name]

    def create_runtime_config(self):
        config = SimpleNamespace(cache=None, create_runtime_cache=Cache)
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config

    def create_execution_context(self, config=None):
        if "create_execution_context" in self.module.fails:
            return None
        context = FakeContext(self, config)
        self.module.contexts.append(context)
        return context


class FakeContext:
    def __init__(self, engine, config):
        self.engine, self.config = engine, config
        self.shapes, self.addresses, self.ran = {}, {}, set()

    def set_input_shape(self, name, shape):
        least, _, most = self.engine.facts["profile"][name]
        good = all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if good:
            self.shapes[name] = tuple(shape)
        return good

    def infer_shapes(self):
        return [name for name in self.engine.facts["profile"] if name not in self.shapes]

    def get_tensor_shape(self, name):
        if name in self.shapes:
            return self.shapes[name]
        sizes = {}
        for tensor in self.engine.facts["inputs"]:
            for size, number in zip(tensor["shape"], self.shapes[tensor["name"]], strict=True):
                if isinstance(size, str):
                    factor, _, free = size.rpartition("*")
                    sizes[free] = number // int(factor or 1)
        return tuple(axis_size(size, sizes) for size in self.engine.tensors[name]["shape"])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return address % 256 == 0

    def is_stream_capturable(self, stream):
        return self.engine.module.capturable

    def execute_async_v3(self, stream):
        module, api = self.engine.module, self.engine.module.api
        shapes = {name: self.get_tensor_shape(name) for name in self.engine.tensors}
        # As TensorRT asks for it: all shapes run once before they are captured.
        unready = stream in api.capturing and tuple(self.shapes.items()) not in self.ran
        if "execute_async_v3" in module.fails or unready:
            self.engine.logger.log(module.ILogger.Severity.ERROR, "enqueue failed")
            return False
        self.ran.add(tuple(self.shapes.items()))
        if self.config is not None:
            self.config.cache.lines += b"kernel\n"
        arrays = {
            name: array_at(self.addresses[name], shape, self.engine.tensors[name]["dtype"])
            for name, shape in shapes.items()
        }
        assert all(api.owns(api.memory, a.ctypes.data, a.nbytes) for a in arrays.values())

        def work():
            reads = {name: arrays[name].copy() for name in self.engine.facts["profile"]}
            names = [tensor["name"] for tensor in self.engine.facts["outputs"]]
            for name, made in zip(names, self.engine.session.run(names, reads), strict=True):
                arrays[name][...] = made

        api.queue(stream, work)
        return True


REAL = {
    FakeCuda: "cuda.bindings",
    FakeEngine: "ICudaEngine",
    FakeContext: "IExecutionContext",
    Cache: "IRuntimeCache",
}
"""The class that each double stands for; `tests/engines/test_bindings.py` compares them."""

VERSIONS = {"tensorrt": "10.13.0", "tensorrt-rtx": "1.7.1"}
GPU = Device("Fake GPU", "8.9")


def pretend(monkeypatch, api=None):
    """Make believe that there is a GPU, and both packages. The module that they are."""
    api = api or FakeCuda()
    module = FakeTensorRT(api)
    monkeypatch.setattr(cuda, "runtime", lambda: api)
    monkeypatch.setattr(trt_package, "device", lambda: GPU)
    monkeypatch.setattr(trt_package, "load", lambda name: Package(name, module, VERSIONS[name]))
    return module


def build(bundle, package, sizes, precision="fp32", graphs=None):
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
        facts = spec.model_dump(mode="json") | {"profile": profile}
        plan = json.dumps(facts).encode() + b"\0" + bundle.graph_bytes(graph)
        assert graph_name(graph, precision) == graph
        info = PlanInfo(
            graph=graph,
            graph_sha256=spec.sha256,
            package=package,
            package_version=VERSIONS[package],
            precision=precision,
            profile=profile,
            gpu=GPU.name if package == "tensorrt" else None,
            compute_capabilities=(),
            plan_sha256=plan_sha256(plan),
            plan_bytes=len(plan),
            vqtrt_version="0",
        )
        write_plan(bundle.path / plans.FOLDER, info, plan, [], [])
