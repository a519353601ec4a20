import shutil
import subprocess
import sys

import numpy as np
import pytest
from cuda_doubles import FakeCuda, build, pretend

from vqtrt.bundle import Bundle, TensorSpec
from vqtrt.engines import cuda, trt_package
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.tensorrt import TensorRTEngine, free_sizes, split_batch
from vqtrt.errors import VqtrtError
from vqtrt.sampler import BatchSampler, Draw
from vqtrt.tokenizer import Tokenizer

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
        "import vqtrt.engines.tensorrt, vqtrt.engines.cuda_loop, vqtrt.engines.onnxruntime_cuda\n"
        "import vqtrt.bench_engine\n"
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
    own = [context.config for context in module.contexts if context.config is not None]
    assert len(own) == (4 if package == "tensorrt-rtx" else 0)
    strategy = "WHOLE_GRAPH_CAPTURE" if graphs else "DISABLED"
    assert all(config.cuda_graph_strategy.name == strategy for config in own)


def test_other_sizes_of_pictures(bundle, module):
    tokenizer = Tokenizer(TensorRTEngine(bundle), batch_size=7)
    reference = Tokenizer(OnnxRuntimeEngine(bundle))
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
    assert [context.shapes["images"][0] for context in module.contexts] == [4, 3]


def test_the_engine_for_a_batch_is_the_narrowest(bundle, module):
    build(bundle, "tensorrt-rtx", SIZES | {"batch": (1, 1)}, graphs=["encoder"])
    encode = TensorRTEngine(bundle).open("encoder")
    module.contexts.clear()
    encode(pictures(1))
    assert [
        context.engine.get_tensor_profile_shape("images", 0)[2][0] for context in module.contexts
    ] == [1, 1]
    module.contexts.clear()
    encode(pictures(2))
    assert [
        context.engine.get_tensor_profile_shape("images", 0)[2][0] for context in module.contexts
    ] == [4, 4]


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
    with pytest.raises(VqtrtError, match="cannot make an execution context"):
        encode(pictures(1))
    module.fails = {"execute_async_v3"}
    with pytest.raises(VqtrtError, match=r"failed to run \(ERROR: enqueue failed\)"):
        encode(pictures(9))
    module.fails = set()
    reference = OnnxRuntimeEngine(bundle).open("encoder")
    np.testing.assert_array_equal(encode(pictures(9)), reference(pictures(9)))


def test_compiled_kernels_are_kept(bundle, module):
    folder = bundle.path / "engines"
    encode = TensorRTEngine(bundle).open("encoder")
    encode(pictures(1))
    (kept,) = folder.glob("*.runtime-cache")
    first = kept.read_bytes()
    assert first.endswith(b"kernel\n")
    encode(pictures(1))
    assert kept.read_bytes() == first
    encode(pictures(2))
    assert len(kept.read_bytes()) > len(first)
    TensorRTEngine(bundle).open("encoder")(pictures(1))
    assert len(kept.read_bytes()) > len(first) + len(b"kernel\n")
    # What is damaged, or of another version, is as if it were not there.
    for junk in (b"", b"junk", kept.read_bytes()[:-1]):
        kept.write_bytes(junk)
        TensorRTEngine(bundle).open("encoder")(pictures(1))
        assert kept.read_bytes() == first


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


DRAWS = [Draw(), Draw(temperature=0), Draw(top_k=5, top_p=0.8, seed=3)]


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
            np.testing.assert_array_equal(*drawn)
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
    assert "cannot be captured" in loop.refused
    drawn = [
        BatchSampler(each, "pixelcnn", 16, 4, 4).sample(Draw(), range(4), 5, np.zeros(4, np.int32))
        for each in (engine, OnnxRuntimeEngine(prior_bundle))
    ]
    np.testing.assert_array_equal(*drawn)
    assert "cudaStreamBeginCapture" not in module.api.calls


def test_two_codebooks_and_no_labels(tiny_prior_bundle2, tmp_path, module):
    bundle = Bundle.open(shutil.copytree(tiny_prior_bundle2, tmp_path / "bundle"))
    build(bundle, "tensorrt-rtx", SIZES)
    drawn = [
        BatchSampler(engine, "pixelcnn", 16, 3, 4).sample(Draw(), range(3), 4)
        for engine in (TensorRTEngine(bundle), OnnxRuntimeEngine(bundle))
    ]
    np.testing.assert_array_equal(*drawn)
    images = pictures(5, 16, 16)
    codes = TensorRTEngine(bundle).open("encoder")(images)
    np.testing.assert_array_equal(codes, OnnxRuntimeEngine(bundle).open("encoder")(images))
