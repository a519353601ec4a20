"""A stand-in for TensorRT on a real GPU: torch runs an engine's graph, on CUDA's own memory.

TensorRT for RTX runs on no data-center GPU (H100, H200, B200), and the standard package is not
always at hand. What vqtrt puts around either — memory, streams, copies, capture into CUDA graphs,
rings of caches, a row of a prior as one launch — is the same code. Here it runs on the real CUDA,
under engines that queue torch's kernels on the stream that they are given.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_doubles import FakeCuda
from tensorrt_doubles import GPU, VERSIONS, FakeRuntime, FakeTensorRT
from tensorrt_engine_doubles import FakeContext, FakeEngine

from vqtrt.engines import cuda
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import Package
from vqtrt.engines.torch import TorchEngine
from vqtrt.formats.bundle import Bundle
from vqtrt.models.deployed import DeployedGraph

Modules = dict[str, DeployedGraph]
"""The torch modules of a bundle's graphs, by the hash of the graph."""


class RealCuda(FakeCuda):
    """What the doubles of TensorRT ask of CUDA, answered by the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.capturing = _Capturing()  # type: ignore[assignment]

    def _current(self) -> int:
        return int(cuda.call("cudaGetDevice"))

    def _has_context(self) -> bool:
        return True


class _Capturing:
    """Answers whether a stream is being captured."""

    def __contains__(self, stream: int) -> bool:
        return int(cuda.call("cudaStreamIsCapturing", stream)) != 0


class _Address:
    """Memory on the GPU, in the form in which torch takes it over without a copy."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }


class TorchQueue:
    """Runs torch on a stream of the real GPU.

    Torch's own memory comes from a pool of the queue's, so that nothing else ever gets the memory
    that a captured run writes to.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.MemPool()

    def tensor(self, address: int, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.as_tensor(_Address(address, shape, dtype), device="cuda")

    def run(self, stream_handle: int, work: Callable[[], None]) -> bool:
        stream = torch.cuda.ExternalStream(stream_handle)
        with torch.cuda.stream(stream), torch.cuda.use_mem_pool(self._pool):
            work()
        return True


class TorchRuntime(FakeRuntime):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "TorchPlan | None":
        assert isinstance(self._module, TorchTensorRT)
        return TorchPlan(self._module, serialized_engine)


class TorchTensorRT(FakeTensorRT):
    """The module `tensorrt` or `tensorrt_rtx`, whose engines torch runs."""

    def __init__(
        self,
        modules: Modules,
        api: FakeCuda | None = None,
        queue: Callable[[], Any] = TorchQueue,
    ) -> None:
        """`queue` makes what runs the modules of a context, as a `TorchQueue`."""
        super().__init__(api or RealCuda(), GPU.capability)
        self.modules, self.queue = modules, queue

    def Runtime(self, logger: Any) -> TorchRuntime:
        self._made("Runtime", logger)
        return TorchRuntime(self)


class TorchPlan(FakeEngine):
    """An engine; its plan says which module it runs."""

    def __init__(self, module: TorchTensorRT, content: bytes) -> None:
        super().__init__(module, content)
        self.deployed = module.modules[self._facts["sha256"]]

    def create_execution_context(self, how: Any = None, /) -> "TorchContext | None":
        made = super().create_execution_context(how)
        if made is None:
            return None
        context = TorchContext(made)
        self._module.contexts[-1] = context
        return context


class TorchContext(FakeContext):
    """A context, which queues a torch module."""

    def __init__(self, made: FakeContext) -> None:
        self.__dict__.update(made.__dict__)
        assert isinstance(self._module, TorchTensorRT)
        self._queue = self._module.queue()

    def set_device_memory(self, memory: int, size: int) -> None:
        if isinstance(self._api, RealCuda):
            self._api.memory[memory] = np.empty(0, np.uint8), size
        super().set_device_memory(memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if (refusal := self._refusal(stream_handle)) is not None:
            self._module.say(refusal)
            return False
        self.ran.add(self._now())
        if stream_handle not in self._api.capturing:
            self._last = self._now()
        self._compile()
        assert isinstance(self._engine, TorchPlan)
        deployed = self._engine.deployed
        # The addresses and shapes are those of now, whenever the work is done.
        places = {
            name: (self._addresses[name], self.get_tensor_shape(name), tensor["dtype"])
            for name, tensor in self._engine._tensors.items()
        }

        def work() -> None:
            tensors = {name: self._queue.tensor(*place) for name, place in places.items()}
            with torch.inference_mode():
                inputs = {tensor.name: tensors[tensor.name] for tensor in deployed.inputs}
                made, kept = deployed.call(inputs, [tensors[c.name] for c in deployed.caches])
                new = dict(zip((tensor.name for tensor in deployed.kept()), kept, strict=True))
                for name, value in {**made, **new}.items():
                    tensors[name].copy_(value)

        return self._queue.run(stream_handle, work)


def modules_of(run: Path) -> Modules:
    """The torch modules of all graphs of a run's bundle, on the GPU."""
    engine = TorchEngine(run)
    graphs = Bundle.open(run / "bundle").info.graphs
    return {spec.sha256: engine._graph(name) for name, spec in graphs.items()}


@contextlib.contextmanager
def torch_for_tensorrt(run: Path, *how: Any) -> Iterator[TorchTensorRT]:
    """Put torch in place of both packages of TensorRT, on the real GPU unless `how` says else."""
    module = TorchTensorRT(modules_of(run), *how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trt_package, "installed", lambda name: True)
        patch.setattr(trt_package, "device", lambda index=0: GPU)
        patch.setattr(trt_package, "load", lambda name: Package(name, module, VERSIONS[name]))
        yield module
