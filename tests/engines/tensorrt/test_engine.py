import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from cuda_doubles import GPU, FakeCuda, FakeTensorRT, Strategy, build, pretend

from vqtrt.engines import cuda
from vqtrt.engines.choose import _loaded
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt import plans
from vqtrt.engines.tensorrt.engine import TensorRTEngine, free_sizes, split_batch
from vqtrt.engines.tensorrt.package import Device
from vqtrt.engines.tensorrt.plan_info import PlanInfo
from vqtrt.engines.tensorrt.plans import runtime_cache
from vqtrt.engines.tensorrt.runtime_cache import write_cache
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, TensorSpec
from vqtrt.images.sampler import BatchSampler, SamplingParams
from vqtrt.images.tokenizer import ImageTokenizer

SIZES = {"batch": (1, 4), "h": (2, 6), "w": (2, 6), "height": (4, 4), "width": (4, 4)}
PACKAGES = ["tensorrt", "tensorrt-rtx"]


def copied(folder, tmp_path, **sizes):
    """A bundle of one's own, with the engines of both packages."""
    shutil.copytree(folder, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    for package in PACKAGES:
        build(bundle, package, SIZES | sizes)
    return bundle


@pytest.fixture
def module(monkeypatch):
    return pretend(monkeypatch)


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return copied(tiny_bundle, tmp_path)


@pytest.fixture
def prior_bundle(tiny_prior, tmp_path):
    return copied(tiny_prior / "bundle", tmp_path)


def pictures(n, height=8, width=12):
    return np.random.default_rng(n).integers(256, size=(n, height, width, 3), dtype=np.uint8)


def test_importing_it_needs_neither_package():
    code = (
        "import sys\n"
        "for name in ('tensorrt', 'tensorrt_rtx', 'cuda', 'torch', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "import vqtrt.engines.tensorrt.engine, vqtrt.engines.tensorrt.loop\n"
        "import vqtrt.engines.onnxruntime_cuda\n"
        "import vqtrt.bench.engine\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_machine_without_a_driver(bundle, monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr(cuda, "runtime", lambda: FakeCuda(driver=0))
    with pytest.raises(VqtrtError, match=r"no CUDA driver .*--engine onnxruntime") as error:
        TensorRTEngine(bundle)
    assert "\n" not in str(error.value)


def test_a_package_that_is_not_installed(bundle, monkeypatch):
    monkeypatch.setattr(trt_package, "installed", lambda name: False)
    with pytest.raises(VqtrtError, match=r'tensorrt is not installed: pip install "vqtrt\[gpu\]"'):
        TensorRTEngine(bundle, "tensorrt")


def test_parts_of_a_batch():
    assert split_batch(0, 4) == [slice(0, 0)]
    assert split_batch(4, 4) == [slice(0, 4)]
    assert split_batch(9, 4) == [slice(0, 4), slice(4, 8), slice(8, 9)]


def test_free_sizes():
    images = TensorSpec(name="images", dtype="uint8", shape=("batch", "4*h", "4*w", 3))
    assert free_sizes([images], [(5, 8, 12, 3)]) == {"batch": 5, "h": 2, "w": 3}
    assert free_sizes([images], [(5, 8, 13, 3)]) is None
    assert free_sizes([images], [(5, 8, 12, 4)]) is None
    assert free_sizes([images], [(5, 8, 12)]) is None
    square = TensorSpec(name="codes", dtype="int32", shape=("batch", "h", "h"))
    assert free_sizes([square], [(5, 2, 2)]) == {"batch": 5, "h": 2}
    assert free_sizes([square], [(5, 2, 3)]) is None
    labels = TensorSpec(name="labels", dtype="int32", shape=("batch",))
    assert free_sizes([square, labels], [(5, 2, 2), (5,)]) == {"batch": 5, "h": 2}
    assert free_sizes([square, labels], [(5, 2, 2), (4,)]) is None


def test_a_graph_without_a_free_batch_is_refused(bundle, module, monkeypatch):
    engine = TensorRTEngine(bundle, "tensorrt-rtx")
    assert engine.most("encoder", {}) == 4
    fixed = engine.spec("encoder").model_copy(update={"inputs": ()})
    monkeypatch.setattr(engine, "spec", lambda graph: fixed)
    with pytest.raises(VqtrtError, match="has no free batch; export"):
        engine.most("encoder", {})


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("package", PACKAGES)
def test_codes_and_pictures_are_those_of_onnxruntime(bundle, module, package, graphs):
    engine, reference = TensorRTEngine(bundle, package, graphs=graphs), OnnxRuntimeEngine(bundle)
    assert (engine.name, engine.facts, engine.lanes) == (package, reference.facts, 1)
    assert engine.preprocessing == reference.preprocessing
    assert engine.weights_sha256 == reference.weights_sha256
    encode, decode = engine.open("encoder"), engine.open("decoder")
    # Below, at and above the largest batch of the profile, again and again, and in between.
    for n in (1, 4, 4, 4, 5, 23, 23, 3, 0):
        images = pictures(n)
        codes = encode(images)
        assert (codes.dtype, codes.shape) == (np.int32, (n, 2, 3))
        assert n == 0 or np.array_equal(codes, reference.open("encoder")(images))
        back = decode(codes)
        assert (back.dtype, back.shape) == (np.uint8, (n, 8, 12, 3))
        assert n == 0 or np.array_equal(back, reference.open("decoder")(codes))
    # 23 is 5 parts of 4 and one of 3: enough of one shape for a graph.
    captures = module.api.calls.count("cudaStreamBeginCapture")
    assert (captures > 0) == (graphs and package == "tensorrt")
    own = [context._config for context in module.contexts if context._config is not None]
    assert len(own) == (4 if package == "tensorrt-rtx" else 0)
    strategy = "WHOLE_GRAPH_CAPTURE" if graphs else "DISABLED"
    assert all(config.cuda_graph_strategy.name == strategy for config in own)


def test_other_sizes_of_pictures(bundle, module):
    tokenizer = ImageTokenizer(TensorRTEngine(bundle), batch_size=7)
    reference = ImageTokenizer(OnnxRuntimeEngine(bundle))
    for height, width in ((8, 12), (24, 8), (8, 12)):
        images = pictures(9, height, width)
        np.testing.assert_array_equal(tokenizer.encode(images), reference.encode(images))
    with pytest.raises(VqtrtError, match=r"profile does not span .*--size.*vqtrt export"):
        tokenizer.encode(pictures(1, 28, 8))


def test_batches_below_the_least_are_filled_up(tiny_bundle, tmp_path, module):
    bundle = copied(tiny_bundle, tmp_path, batch=(3, 4))
    encode, reference = TensorRTEngine(bundle).open("encoder"), OnnxRuntimeEngine(bundle)
    for n in (4, 1, 5):
        images = pictures(n)
        np.testing.assert_array_equal(encode(images), reference.open("encoder")(images))
    # The last batch was 4 and 1; the profile takes no 1.
    assert [context._shapes["images"][0] for context in module.contexts] == [4, 3]


def test_the_engine_for_a_batch_is_the_narrowest(bundle, module):
    build(bundle, "tensorrt-rtx", SIZES | {"batch": (1, 1)}, graphs=["encoder"])
    encode = TensorRTEngine(bundle).open("encoder")
    for batch, most in ((1, 1), (2, 4)):
        module.contexts.clear()
        encode(pictures(batch))
        (context,) = module.contexts  # a call of one part needs one set of buffers
        assert context._engine.get_tensor_profile_shape("images", 0)[2][0] == most


@pytest.mark.parametrize("array", [np.zeros((1, 8, 8, 3)), np.zeros((1, 9, 8, 3), np.uint8)])
def test_an_array_that_does_not_fit(bundle, module, array):
    with pytest.raises(VqtrtError, match=r"takes uint8 \(batch, 4\*h, 4\*w, 3\), not "):
        TensorRTEngine(bundle).open("encoder")(array)


def test_engines_that_are_missing_or_stale(tiny_bundle, tmp_path, module):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    command = "`vqtrt export .* --target tensorrt-rtx --precision fp32`"
    with pytest.raises(VqtrtError, match=f"no tensorrt-rtx engine of 'encoder' .*{command}"):
        TensorRTEngine(bundle).open("encoder")
    build(bundle, "tensorrt-rtx", SIZES)
    (plan,) = (bundle.path / "engines").glob("encoder-*.engine")
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    with pytest.raises(VqtrtError, match=f"is damaged .*{command}"):
        TensorRTEngine(bundle).open("encoder")


def test_what_tensorrt_refuses_is_one_line(bundle, module):
    engine = TensorRTEngine(bundle)
    module.fails = {"deserialize_cuda_engine"}
    with pytest.raises(VqtrtError, match=r"the plan is for another GPU.*vqtrt export") as error:
        engine.open("encoder")
    assert "\n" not in str(error.value)
    module.fails = {"create_execution_context"}
    encode = engine.open("encoder")
    with pytest.raises(VqtrtError, match=r"cannot make an execution context \(ERROR: no context"):
        encode(pictures(1))
    module.fails = {"execute_async_v3"}
    with pytest.raises(VqtrtError, match=r"failed to run \(ERROR: enqueue failed\)"):
        encode(pictures(9))
    module.fails = set()
    reference = OnnxRuntimeEngine(bundle).open("encoder")
    np.testing.assert_array_equal(encode(pictures(9)), reference(pictures(9)))


def test_compiled_kernels_are_kept_at_the_end(bundle: Bundle, module: FakeTensorRT) -> None:
    """And not at each new shape: a cache can be large, and is written whole."""
    build(bundle, "tensorrt-rtx", SIZES | {"h": (2, 2), "w": (3, 3)}, graphs=["encoder"])
    folder = bundle.path / "engines"

    def run(*batches: int) -> list[bytes]:
        """The lines that the cache has after a process that ran these batches."""
        engine = TensorRTEngine(bundle)
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
    path = TensorRTEngine(bundle).plan("encoder", {}).path
    for trust, lines in ((False, []), (True, [b"kernel of a stranger"])):
        assert write_cache(runtime_cache(path), b"cache\nkernel of a stranger\n")
        engine = TensorRTEngine(bundle, trust=trust)
        engine.open("encoder")(pictures(1))
        context = module.contexts.pop()
        kept = context._config._cache.serialize()
        assert [line for line in kept.splitlines() if b"stranger" in line] == lines
        del engine  # which saves its cache


@pytest.mark.parametrize("fails", ["serialize", "set_runtime_cache"])
def test_a_cache_that_fails_is_none(bundle: Bundle, module: FakeTensorRT, fails: str) -> None:
    module.fails = {fails}
    engine = TensorRTEngine(bundle)
    np.testing.assert_array_equal(
        engine.open("encoder")(pictures(2)), OnnxRuntimeEngine(bundle).open("encoder")(pictures(2))
    )
    engine.plan("encoder", {}).save_cache()
    assert not list((bundle.path / "engines").glob("*.runtime-cache"))


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("package", PACKAGES)
def test_bound_graphs_are_those_of_onnxruntime(prior_bundle, module, package, graphs):
    engines = TensorRTEngine(prior_bundle, package, graphs=graphs), OnnxRuntimeEngine(prior_bundle)
    sizes = {"batch": 3, "width": 4}
    found = []
    for engine in engines:
        row = engine.bind("priors/pixelcnn/row", sizes)
        shared = {"bias": row.outputs["bias"]}
        step = engine.bind("priors/pixelcnn/step", sizes, shared=shared)
        short = engine.bind("priors/pixelcnn/step", sizes, shared=shared, skip=("logits",))
        assert step.inputs["bias"] is row.outputs["bias"]
        assert (set(row.inputs), set(short.outputs)) == ({"above", "labels"}, {"codes"})
        for graph in (step, short):
            graph.inputs["noise"][:] = [[0.2], [0.5], [0.9]]
            graph.inputs["temperature"][:] = 1
            graph.inputs["code"][:] = 16
        made = []
        for count in (5, 2, 1):  # resets after an odd and an even number of runs
            row.reset()
            for r in range(count):
                row.inputs["above"][:] = r
                row.run()
                made.append(row.outputs["bias"].copy())
                step.reset()
                for column in range(3):
                    step.inputs["column"][0] = column
                    step.run()
                    made.append(step.outputs["logits"].copy())
            short.reset()
            short.inputs["column"][0] = 0
            short.run()
            made.append(short.outputs["codes"].copy())
        found.append(made)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert ("cudaGraphLaunch" in module.api.calls) == graphs


def test_a_shared_array_of_another_hand_is_copied(prior_bundle, module):
    engine, sizes = TensorRTEngine(prior_bundle), {"batch": 2, "width": 4}
    theirs = OnnxRuntimeEngine(prior_bundle).bind("priors/pixelcnn/row", sizes)
    theirs.inputs["above"][:] = 3
    theirs.run()
    shared = {"bias": theirs.outputs["bias"]}
    steps = [
        each.bind("priors/pixelcnn/step", sizes, shared=shared)
        for each in (engine, OnnxRuntimeEngine(prior_bundle))
    ]
    for step in steps:
        step.inputs["temperature"][:] = 1
        step.inputs["noise"][:] = 0.5
        step.run()
    np.testing.assert_array_equal(steps[0].outputs["logits"], steps[1].outputs["logits"])


DRAWS = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(top_k=5, top_p=0.8, seed=3),
]


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("package", PACKAGES)
def test_samples_are_those_of_onnxruntime(prior_bundle, module, package, graphs):
    engine = TensorRTEngine(prior_bundle, package, graphs=graphs)
    # 7 samples in lanes of 4, as many as the engine takes.
    samplers = [
        BatchSampler(each, "pixelcnn", 16, 7, 4)
        for each in (engine, OnnxRuntimeEngine(prior_bundle))
    ]
    labels = np.arange(7, dtype=np.int32) % 3
    prefix = np.random.default_rng(0).integers(0, 16, (7, 3, 4, 1), dtype=np.int32)
    for draw in DRAWS:
        for known in (None, prefix):
            drawn = [s.sample(draw, range(7), 6, labels, known) for s in samplers]
            np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len(np.unique(drawn[0])) > 3
    assert ("cudaGraphLaunch" in module.api.calls) == graphs


def test_a_row_is_one_launch(prior_bundle, module):
    engine = TensorRTEngine(prior_bundle)
    sizes = {"batch": 4, "width": 4}
    loop = engine.bind_loop("pixelcnn", "step", sizes, 16)
    loop.inputs["temperature"][:] = 1
    loop.inputs["noise"][:] = 0.5
    loop.inputs["above"][:] = 16
    loop.begin()
    calls, ticks = module.api.calls, []
    for _ in range(4):
        loop.draw(lambda: ticks.append(1))
    assert (loop.captured, loop.refused, len(ticks)) == (True, None, 16)
    before = len(calls)
    loop.draw()
    assert calls[before:] == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_an_engine_that_cannot_be_captured_draws_all_the_same(prior_bundle, module):
    module.capturable = False
    engine = TensorRTEngine(prior_bundle)
    loop = engine.bind_loop("pixelcnn", "step", {"batch": 4, "width": 4}, 16)
    loop.begin()
    for _ in range(4):
        loop.draw()
    assert "cannot be captured" in loop.refused
    drawn = [
        BatchSampler(each, "pixelcnn", 16, 4, 4).sample(
            SamplingParams(), range(4), 5, np.zeros(4, np.int32)
        )
        for each in (engine, OnnxRuntimeEngine(prior_bundle))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert "cudaStreamBeginCapture" not in module.api.calls


def test_two_codebooks_and_no_labels(tiny_prior_bundle2, tmp_path, module):
    bundle = Bundle.open(shutil.copytree(tiny_prior_bundle2, tmp_path / "bundle"))
    build(bundle, "tensorrt-rtx", SIZES)
    drawn = [
        BatchSampler(engine, "pixelcnn", 16, 3, 4).sample(SamplingParams(), range(3), 4)
        for engine in (TensorRTEngine(bundle), OnnxRuntimeEngine(bundle))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    images = pictures(5, 16, 16)
    codes = TensorRTEngine(bundle).open("encoder")(images)
    np.testing.assert_array_equal(codes, OnnxRuntimeEngine(bundle).open("encoder")(images))


def batches_run(module: FakeTensorRT) -> set[int]:
    return {context._shapes["images"][0] for context in module.contexts}


def test_few_batches_are_compiled_for(bundle: Bundle, module: FakeTensorRT) -> None:
    build(bundle, "tensorrt-rtx", SIZES | {"batch": (1, 64)}, graphs=["encoder"])
    encode, reference = TensorRTEngine(bundle).open("encoder"), OnnxRuntimeEngine(bundle)
    seen = set()
    for n in range(5, 30, 3):
        images = pictures(n)
        np.testing.assert_array_equal(encode(images), reference.open("encoder")(images))
        seen |= batches_run(module)
    assert seen <= {6, 8, 12, 16, 24, 32}


def test_contexts_take_memory_by_need(bundle: Bundle, module: FakeTensorRT) -> None:
    """And not for the profile's largest shapes, nor for a second part that never comes."""
    api = module.api
    encode = TensorRTEngine(bundle).open("encoder")
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
    encode = TensorRTEngine(bundle).open("encoder")
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
    engine = TensorRTEngine(bundle)
    engine.open("decoder")(engine.open("encoder")(pictures(9)))
    sampler = BatchSampler(engine, "pixelcnn", 16, 4, 4)
    sampler.sample(SamplingParams(), range(4), 2, np.zeros(4, np.int32))
    kernels = {
        context._engine._facts["file"]: (
            context._config.dynamic_shapes_kernel_specialization_strategy.name
        )
        for context in module.contexts
    }
    general = "EAGER" if h == (2, 2) else "NONE"  # few shapes, or too many to compile for each
    assert set(kernels.values()) == {"EAGER", general}
    assert kernels["encoder.onnx"] == kernels["decoder.onnx"] == general


def test_an_engine_says_only_after_a_run_that_it_can_be_captured(
    prior_bundle: Bundle, module: FakeTensorRT
) -> None:
    step = TensorRTEngine(prior_bundle).bind("priors/pixelcnn/step", {"batch": 2, "width": 4})
    assert not module.contexts[0].is_stream_capturable(0)
    for _ in range(6):
        step.run()
    assert "cudaGraphLaunch" in module.api.calls


def test_what_is_slow_is_said_once(
    prior_bundle: Bundle,
    module: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuda.warn_slower.cache_clear()
    module.capturable = False
    step = TensorRTEngine(prior_bundle).bind("priors/pixelcnn/step", {"batch": 2, "width": 4})
    for _ in range(6):
        step.run()
    (record,) = caplog.records
    assert record.getMessage() == (
        "runs without CUDA graphs, which is slower: TensorRT says that this engine cannot be "
        "captured now"
    )


@pytest.mark.parametrize(("value", "graphs"), [("0", False), ("1", True), (None, True)])
def test_cuda_graphs_are_off_by_a_variable(
    prior_bundle: Bundle,
    module: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    graphs: bool,
) -> None:
    monkeypatch.delenv("VQTRT_CUDA_GRAPHS", raising=False)
    if value is not None:
        monkeypatch.setenv("VQTRT_CUDA_GRAPHS", value)
    engine = TensorRTEngine(prior_bundle)
    BatchSampler(engine, "pixelcnn", 16, 4, 4).sample(
        SamplingParams(), range(4), 6, np.zeros(4, np.int32)
    )
    assert ("cudaGraphLaunch" in module.api.calls) == graphs
    assert TensorRTEngine(prior_bundle, graphs=True).graphs


def test_a_gpu_that_rtx_does_not_support(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpu=Device("NVIDIA H100", "9.0"))
    with pytest.raises(VqtrtError, match=r"does not support NVIDIA H100.*9\.0.*\[gpu\]") as error:
        TensorRTEngine(bundle)
    assert "build it again" not in str(error.value)
    assert "engines run on 7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in str(error.value)
    # `auto` goes on to the next engine, and `tensorrt` is not concerned.
    notes: list[str] = []
    assert _loaded(bundle, EngineOptions(engine="tensorrt-rtx"), notes.append) is None
    assert "does not support NVIDIA H100" in notes[0]
    monkeypatch.setattr(trt_package, "device", lambda index=0: Device(GPU.name, "9.0"))
    assert TensorRTEngine(bundle, "tensorrt").name == "tensorrt"


@pytest.mark.parametrize("package", PACKAGES)
def test_what_the_packages_raise_is_one_line(
    bundle: Bundle, module: FakeTensorRT, package: str
) -> None:
    engine = TensorRTEngine(bundle, package)
    module.fails = {"Runtime"}
    with pytest.raises(VqtrtError, match=r"cannot start here \(ERROR: CUDA init") as error:
        engine.open("encoder")
    assert "\n" not in str(error.value)
    module.fails = {"infer_shapes"}
    with pytest.raises(VqtrtError, match=r"cannot infer shapes \(shape inference"):
        engine.open("encoder")(pictures(1))
    module.fails = set()
    reference = OnnxRuntimeEngine(bundle).open("encoder")
    np.testing.assert_array_equal(engine.open("encoder")(pictures(1)), reference(pictures(1)))


def test_the_first_cause_is_told(bundle: Bundle, module: FakeTensorRT) -> None:
    engine = TensorRTEngine(bundle)
    module.fails = {"deserialize_cuda_engine"}
    with pytest.raises(VqtrtError, match=r"\(ERROR: the plan is for another GPU\); build it again"):
        engine.open("encoder")
    # What was said of an earlier call is not told of a later one.
    module.fails = set()
    encode = engine.open("encoder")
    (context,) = [encode(pictures(1)) is not None and module.contexts[0]]
    context._module.say = lambda text: None
    with pytest.raises(VqtrtError, match=r"refuses the shape \(9, 8, 12, 3\) of images; build it"):
        engine.plan("encoder", {}).context(captured=True, graphs=True).prepare(
            {"images": (9, 8, 12, 3)}
        )


def test_a_gpu_that_loads_but_is_not_supported(bundle: Bundle, module: FakeTensorRT) -> None:
    """The library's word, where the table of capabilities had it otherwise."""
    engine = TensorRTEngine(bundle)
    module.capability = "9.0"
    with pytest.raises(VqtrtError, match="does not support this compute capability") as error:
        engine.open("encoder")
    assert "build it again" not in str(error.value)
    assert "pass another --engine" in str(error.value)


def test_the_gpu_is_chosen_by_its_number(
    prior_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeCuda(devices=3)
    module = pretend(monkeypatch, api)
    with pytest.raises(VqtrtError, match=r"no GPU 3: CUDA shows GPUs 0 to 2 here; see --device"):
        TensorRTEngine(prior_bundle, device=3)
    engine = TensorRTEngine(prior_bundle, device=2)
    encode = engine.open("encoder")
    step = engine.bind("priors/pixelcnn/step", {"batch": 2, "width": 4})
    step.inputs["noise"][:] = 0.5
    loop = engine.bind_loop("pixelcnn", "step", {"batch": 2, "width": 4}, 16)
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
    TensorRTEngine(bundle, device=1).open("encoder")(pictures(9))
    assert api.contexts == {1}


def test_files_are_looked_at_once(
    bundle: Bundle, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, paths = plans.read_info, []

    def counted(path: Path, build: str) -> PlanInfo:
        paths.append(path)
        return read(path, build)

    monkeypatch.setattr(plans, "read_info", counted)
    encode = TensorRTEngine(bundle).open("encoder")
    seen = len(paths)
    for n, side in ((1, 8), (2, 8), (3, 12), (4, 16), (9, 20)):
        encode(pictures(n, side, side))
    assert len(paths) == seen == 4 + 1  # each once, and again the one whose plan was loaded


def test_engines_of_others_are_not_loaded_unasked(
    bundle: Bundle, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plan is code. `auto` goes on to an engine that does not run it."""
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "other"))
    assert not module.loggers  # no runtime was made, so no plan was read
    with pytest.raises(VqtrtError, match=r"was not built by this user .* --trust-engines") as error:
        TensorRTEngine(bundle).open("encoder")
    assert "\n" not in str(error.value)
    notes: list[str] = []
    assert _loaded(bundle, EngineOptions(engine="tensorrt-rtx"), notes.append) is None
    assert "--trust-engines" in notes[0]
    assert not module.loggers  # no runtime was made, so no plan was read
    encode = TensorRTEngine(bundle, trust=True).open("encoder")
    reference = OnnxRuntimeEngine(bundle).open("encoder")
    np.testing.assert_array_equal(encode(pictures(3)), reference(pictures(3)))


def test_a_copy_loads_its_own_plans(bundle: Bundle, module: FakeTensorRT) -> None:
    engine = TensorRTEngine(bundle, "tensorrt", graphs=False)
    encode = engine.open("encoder")
    codes = encode(pictures(3))
    np.testing.assert_array_equal(deepcopy(encode)(pictures(3)), codes)
    for copy in (pickle.loads(pickle.dumps(engine)), deepcopy(engine)):  # noqa: S301
        assert (copy.name, copy.graphs, copy.device) == ("tensorrt", False, 0)
        np.testing.assert_array_equal(copy.open("encoder")(pictures(3)), codes)
        assert copy.plan("encoder", {}) is not engine.plan("encoder", {})


def test_threads_load_a_plan_once(bundle: Bundle, module: FakeTensorRT) -> None:
    engine = TensorRTEngine(bundle)
    encode, reference = engine.open("encoder"), OnnxRuntimeEngine(bundle).open("encoder")

    def run(n: int) -> None:
        np.testing.assert_array_equal(encode(pictures(n)), reference(pictures(n)))
        engine.open("decoder")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(1, 9)))
    assert len(module.loggers) == 2  # a runtime for each graph
