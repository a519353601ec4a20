"""The stand-ins refuse what the libraries refuse: else tests on them prove nothing."""

import gc
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cuda_doubles import FakeCuda, Mode
from tensorrt_doubles import FakeTensorRT, build, pretend
from tensorrt_engine_doubles import FakeContext, FakeEngine, FakeRuntimeCache, Strategy

from vqtrt.engines.cuda import DeviceArray, Stream, pinned
from vqtrt.engines.tensorrt.package import Package
from vqtrt.errors import VqtrtError
from vqtrt.export.tensorrt.build import build_plan
from vqtrt.formats.bundle import Bundle

SIZES = {"batch": (1, 4), "h": (4, 4), "w": (4, 4), "height": (4, 4), "width": (4, 4)}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return pretend(monkeypatch)


@pytest.fixture
def said(module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the library logs."""
    lines: list[str] = []
    monkeypatch.setattr(module, "say", lines.append)
    return lines


@pytest.fixture
def load(tiny_prior: Path, tmp_path: Path, module: FakeTensorRT) -> Callable[[str], FakeEngine]:
    """The engine of a graph, for TensorRT for RTX."""
    bundle = Bundle.open(shutil.copytree(tiny_prior / "bundle", tmp_path / "bundle"))
    build(bundle, "tensorrt-rtx", SIZES)

    def find(name: str) -> FakeEngine:
        (path,) = (bundle.path / "engines").glob(f"{name}-fp32-*.engine")
        return FakeEngine(module, path.read_bytes())

    return find


def managed(engine: FakeEngine) -> FakeContext:
    """A context that is given its memory."""
    context = engine.create_execution_context(Strategy.USER_MANAGED)
    assert context is not None
    return context


def encoder(
    load: Callable[[str], FakeEngine],
) -> tuple[FakeContext, Stream, list[DeviceArray]]:
    """A context with its shapes and addresses but no memory, its stream, and what it uses."""
    engine, stream = load("encoder"), Stream()
    context = managed(engine)
    context.set_input_shape("images", (1, 16, 16, 3))
    arrays = [DeviceArray(4 * 16 * 16 * 3), DeviceArray(4 * 4 * 4 * 4)]
    for name, array in zip(("images", "codes"), arrays, strict=True):
        context.set_tensor_address(name, array.address)
    return context, stream, arrays


def give_memory(context: FakeContext) -> DeviceArray:
    memory = DeviceArray(context.update_device_memory_size_for_shapes())
    context.set_device_memory(memory.address, memory.nbytes)
    return memory


def test_an_engine_that_requires_user_allocation(
    load: Callable[[str], FakeEngine], module: FakeTensorRT, said: list[str]
) -> None:
    step = load("priors-pixelcnn-step")
    assert step.create_execution_context() is None
    config = step.create_runtime_config()  # STATIC, unless it is told
    assert step.create_execution_context(config) is None
    assert all("requires ExecutionContextAllocationStrategy::kUSER_MANAGED" in x for x in said)
    assert len(said) == 2
    config.set_execution_context_allocation_strategy(Strategy.USER_MANAGED)
    assert step.create_execution_context(config) is not None
    assert load("encoder").create_execution_context() is not None


def test_memory_that_is_not_set_or_too_small(
    load: Callable[[str], FakeEngine], said: list[str]
) -> None:
    context, stream, arrays = encoder(load)
    assert not context.execute_async_v3(int(stream))
    assert "setDeviceMemoryV2 should be called before enqueue" in said.pop()
    memory = DeviceArray(256)
    context.set_device_memory(memory.address, memory.nbytes)
    assert "The provided memory size is too small" in said.pop()
    large = give_memory(context)
    assert context.execute_async_v3(int(stream))
    stream.wait()
    # What was enough for one picture is not enough for four.
    context.set_input_shape("images", (4, 16, 16, 3))
    context.update_device_memory_size_for_shapes()
    assert not context.execute_async_v3(int(stream))
    assert not said.pop().startswith("enqueue failed")
    # A context that allocates by itself takes none, and tells no size.
    static = load("encoder").create_execution_context()
    assert static is not None
    assert static.update_device_memory_size_for_shapes() == 0
    static.set_device_memory(large.address, large.nbytes)
    assert "Context not created with user managed device memory" in said.pop()
    del arrays


def test_a_context_whose_shapes_changed_is_not_captured(
    load: Callable[[str], FakeEngine], module: FakeTensorRT, said: list[str]
) -> None:
    context, stream, arrays = encoder(load)
    memory = give_memory(context)

    def captured() -> bool:
        api = module.api
        api.cudaStreamBeginCapture(int(stream), Mode.cudaStreamCaptureModeRelaxed)
        queued = context.execute_async_v3(int(stream))
        api.cudaStreamEndCapture(int(stream))
        return queued

    assert not captured()  # it never ran
    assert context.execute_async_v3(int(stream))
    stream.wait()
    assert captured()
    for batch in (2, 1):
        context.set_input_shape("images", (batch, 16, 16, 3))
        memory = give_memory(context)
        assert captured() == context.is_stream_capturable(int(stream)) == (batch == 1)
    assert "not stream capturable" in said[-1]
    del arrays, memory


def test_a_context_on_another_gpu(load: Callable[[str], FakeEngine], said: list[str]) -> None:
    context, stream, arrays = encoder(load)
    memory, api = give_memory(context), context._api
    api.devices = 2
    api.cudaSetDevice(1)
    assert not context.execute_async_v3(int(stream))
    assert "invalid resource handle" in said[-1]
    assert api.cudaMemsetAsync(memory.address, 0, 1, int(stream)) == (400,)
    assert api.cudaSetDevice(2) == (101,)
    api.cudaSetDevice(0)
    del arrays


def test_memory_is_not_freed_under_work(module: FakeTensorRT) -> None:
    stream, memory, array = Stream(), DeviceArray(8), pinned((2,), np.int32)
    stream.copy_in(memory.address, array)
    with pytest.raises(AssertionError, match="freed that queued work uses"):
        module.api.cudaFree(memory.address)
    with pytest.raises(AssertionError, match="freed that queued work uses"):
        module.api.cudaFreeHost(array.ctypes.data)
    stream.wait()
    del memory, array
    gc.collect()
    assert not module.api.memory
    assert not module.api.hosts


def test_memory_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, FakeCuda(memory_bytes=1000))
    first = DeviceArray(600)
    with pytest.raises(VqtrtError, match="out of GPU memory"):
        DeviceArray(600)
    del first
    DeviceArray(600)


def test_a_builder_without_a_driver(module: FakeTensorRT) -> None:
    module.fails = {"Builder"}
    with pytest.raises(VqtrtError, match="cannot build: ERROR: CUDA initialization failure"):
        build_plan(Package("tensorrt-rtx", module, "1.7.1"), b"", {})


def test_a_cache_without_a_cuda_context(module: FakeTensorRT, said: list[str]) -> None:
    cache = FakeRuntimeCache(module)
    with ThreadPoolExecutor(1) as pool:  # a new thread has none
        assert pool.submit(cache.serialize).result() is None
    assert "no active CUDA context" in said[0]
    module.api.cudaSetDevice(0)
    assert cache.serialize() == b"cache\n"
    assert not cache.deserialize(b"junk")
