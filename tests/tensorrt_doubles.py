"""Stand-ins for the packages of TensorRT, on those for CUDA; `pretend` puts them in place.

`REAL` says which class or module each double stands for: every public method of a double is one of
that, with as many parameters.
"""

import enum
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from cuda_doubles import FakeCuda, FakeDriver
from tensorrt_engine_doubles import (
    FakeContext,
    FakeEngine,
    FakeRuntimeCache,
    FakeRuntimeConfig,
    Strategy,
)

from vqtrt.engines import cuda
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt import plans
from vqtrt.engines.tensorrt.package import Device, Package
from vqtrt.engines.tensorrt.plan_info import PlanInfo, plan_sha256
from vqtrt.engines.tensorrt.plans import graph_name, write_plan
from vqtrt.export.tensorrt.build import in_loop
from vqtrt.formats.bundle import Bundle, axis_size


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
