import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_doubles import FakeCuda
from tensorrt_bundles import SIZES, copied, pictures
from tensorrt_doubles import FakeTensorRT, build, pretend
from tensorrt_engine_doubles import Strategy

from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.engines.tensorrt.plans import runtime_cache
from vqtrt.engines.tensorrt.runtime_cache import write_cache
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler


@pytest.fixture
def module(monkeypatch):
    return pretend(monkeypatch)


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return copied(tiny_bundle, tmp_path)


@pytest.fixture
def prior_bundle(tiny_prior, tmp_path):
    return copied(tiny_prior / "bundle", tmp_path)


def test_compiled_kernels_are_kept_at_the_end(bundle: Bundle, module: FakeTensorRT) -> None:
    """And not at each new shape: a cache can be large, and is written whole."""
    build(bundle, "tensorrt-rtx", SIZES | {"h": (2, 2), "w": (3, 3)}, graphs=["encoder"])
    folder = bundle.path / "engines"

    def run(*batches: int) -> list[bytes]:
        """The lines that the cache has after a process that ran these batches."""
        engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
        encode = engine.open("encoder")
        before = [path.read_bytes() for path in folder.glob("*.runtime-cache")]
        for n in batches:
            encode(pictures(n))
        assert [path.read_bytes() for path in folder.glob("*.runtime-cache")] == before
        del encode, engine
        (kept,) = folder.glob("*.runtime-cache")
        return kept.read_bytes().splitlines()

    assert len(run(1, 1, 2)) == 1 + 2
    assert len(run(1, 2, 4)) == 1 + 3
    (kept,) = folder.glob("*.runtime-cache")
    content, digest = kept.read_bytes(), kept.with_name(f"{kept.name}.sha256")
    assert content.startswith(b"cache\n")  # as the package wrote it, for NVIDIA's own tools
    check = ["sha256sum", "--check", "--quiet", digest.name]
    subprocess.run(check, cwd=folder, check=True)
    # What is damaged, or of another version, is as if it were not there.
    for junk in (b"", b"junk", content[:-1]):
        kept.write_bytes(junk)
        assert len(run(1)) == 1 + 1


def test_a_runtime_cache_of_somebody_else_is_not_loaded(
    bundle: Bundle, module: FakeTensorRT
) -> None:
    """Kernels are code, as plans are, and whoever wrote the bundle wrote their SHA-256 too."""
    path = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).plan("encoder", {}).path
    for trust, lines in ((False, []), (True, [b"kernel of a stranger"])):
        assert write_cache(runtime_cache(path), b"cache\nkernel of a stranger\n")
        engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx", trust_engines=trust))
        engine.open("encoder")(pictures(1))
        context = module.contexts.pop()
        kept = context._config._cache.serialize()
        assert [line for line in kept.splitlines() if b"stranger" in line] == lines
        del engine  # which saves its cache


@pytest.mark.parametrize("fails", ["serialize", "set_runtime_cache"])
def test_a_cache_that_fails_is_none(bundle: Bundle, module: FakeTensorRT, fails: str) -> None:
    module.fails = {fails}
    engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    np.testing.assert_array_equal(
        engine.open("encoder")(pictures(2)), OnnxRuntimeEngine(bundle).open("encoder")(pictures(2))
    )
    engine.plan("encoder", {}).save_cache()
    assert not list((bundle.path / "engines").glob("*.runtime-cache"))


def batches_run(module: FakeTensorRT) -> set[int]:
    return {context._shapes["images"][0] for context in module.contexts}


def test_few_batches_are_compiled_for(bundle: Bundle, module: FakeTensorRT) -> None:
    build(bundle, "tensorrt-rtx", SIZES | {"batch": (1, 64)}, graphs=["encoder"])
    encode, reference = (
        TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder"),
        OnnxRuntimeEngine(bundle),
    )
    seen = set()
    for n in range(5, 30, 3):
        images = pictures(n)
        np.testing.assert_array_equal(encode(images), reference.open("encoder")(images))
        seen |= batches_run(module)
    assert seen <= {6, 8, 12, 16, 24, 32}


def test_contexts_take_memory_by_need(bundle: Bundle, module: FakeTensorRT) -> None:
    """And not for the profile's largest shapes, nor for a second part that never comes."""
    api = module.api
    encode = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")
    encode(pictures(1))
    (context,) = module.contexts
    assert context._strategy == Strategy.USER_MANAGED
    small, most = context._memory[1], context._engine.device_memory_size_v2
    assert small == context._engine._need({"images": (1, 8, 12, 3)}) < most / 8
    assert sum(nbytes for _, nbytes in api.memory.values()) < most / 4
    assert sum(nbytes for _, nbytes in api.hosts.values()) < most / 8
    encode(pictures(4, 24, 24))
    assert context._memory[1] == most
    encode(pictures(1))
    assert context._memory[1] == most  # what is there stays
    assert len(module.contexts) == 1
    encode(pictures(5, 24, 24))
    assert [each._memory[1] < most for each in module.contexts] == [False, True]


def test_memory_that_is_not_there(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, FakeCuda(memory_bytes=16_000))
    encode = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")
    with pytest.raises(VqtrtError, match="out of GPU memory in cudaMalloc: a smaller --batch-size"):
        encode(pictures(4, 24, 24))
    images = pictures(1, 8, 8)
    reference = OnnxRuntimeEngine(bundle).open("encoder")
    np.testing.assert_array_equal(encode(images), reference(images))


@pytest.mark.parametrize("h", [(2, 2), (2, 6)])
def test_kernels_do_not_change_while_codes_are_made(
    tiny_prior: Path, tmp_path: Path, module: FakeTensorRT, h: tuple[int, int]
) -> None:
    """LAZY, the library's own choice, replaces kernels while a job runs, and so its codes."""
    bundle = Bundle.open(shutil.copytree(tiny_prior / "bundle", tmp_path / "bundle"))
    build(bundle, "tensorrt-rtx", SIZES | {"h": h, "w": (3, 3)})
    engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    engine.open("decoder")(engine.open("encoder")(pictures(9)))
    sampler = BatchSampler(engine, "pixelcnn", 16, 4, 4)
    sampler.sample(SamplingParams(), range(4), 2, labels=np.zeros(4, np.int32))
    kernels = {
        context._engine._facts["file"]: (
            context._config.dynamic_shapes_kernel_specialization_strategy.name
        )
        for context in module.contexts
    }
    general = "EAGER" if h == (2, 2) else "NONE"  # few shapes, or too many to compile for each
    assert set(kernels.values()) == {"EAGER", general}
    assert kernels["encoder.onnx"] == kernels["decoder.onnx"] == general


def test_the_gpu_is_chosen_by_its_number(
    prior_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeCuda(devices=3)
    module = pretend(monkeypatch, api)
    with pytest.raises(VqtrtError, match=r"no GPU 3: CUDA shows GPUs 0 to 2 here; see --device"):
        TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx", device=3))
    engine = TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx", device=2))
    encode = engine.open("encoder")
    step = engine.bind("priors/pixelcnn/step", {"batch": 2, "width": 4})
    step.inputs["noise"][:] = 0.5
    loop: Any = engine.bind_rows("pixelcnn", "step", {"batch": 2, "width": 4}, start_code=16)
    images = pictures(9)
    codes = OnnxRuntimeEngine(prior_bundle).open("encoder")(images)

    def run(current: int) -> None:
        """In a thread of another GPU, as torch may have chosen it."""
        api.cudaSetDevice(current)
        np.testing.assert_array_equal(encode(images), codes)
        for _ in range(4):
            step.run()
        step.reset()
        loop.begin()
        for _ in range(4):
            loop.draw()
        assert loop.captured
        assert api.cudaGetDevice() == (0, current)  # as it was

    for current in (2, 0, 1):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run, current).result()
    assert set(api.gpus.values()) == {2}
    assert {context._engine._device for context in module.contexts} == {2}


def test_no_gpu_is_used_but_the_one_that_was_chosen(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA takes hundreds of MB on each GPU that a process makes its current one."""
    api = FakeCuda(devices=2)
    pretend(monkeypatch, api)
    TensorRTEngine(bundle, EngineOptions("tensorrt-rtx", device=1)).open("encoder")(pictures(9))
    assert api.contexts == {1}
