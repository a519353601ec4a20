import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from cuda_doubles import FakeCuda
from tensorrt_bundles import PACKAGES, SIZES, copied, pictures
from tensorrt_doubles import FakeTensorRT, build, pretend

from vqtrt.engines import cuda
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt import plans
from vqtrt.engines.tensorrt.engine import TensorRTEngine, free_sizes, split_batch
from vqtrt.engines.tensorrt.plan_info import PlanInfo
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, TensorSpec
from vqtrt.images.tokenizer import ImageTokenizer


@pytest.fixture
def module(monkeypatch):
    return pretend(monkeypatch)


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return copied(tiny_bundle, tmp_path)


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
        TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    assert "\n" not in str(error.value)


def test_a_package_that_is_not_installed(bundle, monkeypatch):
    monkeypatch.setattr(trt_package, "installed", lambda name: False)
    with pytest.raises(VqtrtError, match=r'tensorrt is not installed: pip install "vqtrt\[gpu\]"'):
        TensorRTEngine(bundle, EngineOptions("tensorrt"))


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
    engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    assert engine.largest_batch("encoder", {}) == 4
    fixed = engine.spec("encoder").model_copy(update={"inputs": ()})
    monkeypatch.setattr(engine, "spec", lambda graph: fixed)
    with pytest.raises(VqtrtError, match="has no free batch; export"):
        engine.largest_batch("encoder", {})


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("package", PACKAGES)
def test_codes_and_pictures_are_those_of_onnxruntime(bundle, module, package, graphs):
    engine, reference = (
        TensorRTEngine(bundle, EngineOptions(package), graphs=graphs),
        OnnxRuntimeEngine(bundle),
    )
    assert (engine.name, engine.info, engine.num_streams) == (package, reference.info, 1)
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
    tokenizer = ImageTokenizer(TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")), batch_size=7)
    reference = ImageTokenizer(OnnxRuntimeEngine(bundle))
    for height, width in ((8, 12), (24, 8), (8, 12)):
        images = pictures(9, height, width)
        np.testing.assert_array_equal(tokenizer.encode(images), reference.encode(images))
    with pytest.raises(VqtrtError, match=r"profile does not span .*--size.*vqtrt export"):
        tokenizer.encode(pictures(1, 28, 8))


def test_batches_below_the_least_are_filled_up(tiny_bundle, tmp_path, module):
    bundle = copied(tiny_bundle, tmp_path, batch=(3, 4))
    encode, reference = (
        TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder"),
        OnnxRuntimeEngine(bundle),
    )
    for n in (4, 1, 5):
        images = pictures(n)
        np.testing.assert_array_equal(encode(images), reference.open("encoder")(images))
    # The last batch was 4 and 1; the profile takes no 1.
    assert [context._shapes["images"][0] for context in module.contexts] == [4, 3]


def test_the_engine_for_a_batch_is_the_narrowest(bundle, module):
    build(bundle, "tensorrt-rtx", SIZES | {"batch": (1, 1)}, graphs=["encoder"])
    encode = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")
    for batch, most in ((1, 1), (2, 4)):
        module.contexts.clear()
        encode(pictures(batch))
        (context,) = module.contexts  # a call of one part needs one set of buffers
        assert context._engine.get_tensor_profile_shape("images", 0)[2][0] == most


@pytest.mark.parametrize("array", [np.zeros((1, 8, 8, 3)), np.zeros((1, 9, 8, 3), np.uint8)])
def test_an_array_that_does_not_fit(bundle, module, array):
    with pytest.raises(VqtrtError, match=r"takes uint8 \(batch, 4\*h, 4\*w, 3\), not "):
        TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")(array)


def test_engines_that_are_missing_or_stale(tiny_bundle, tmp_path, module):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    command = "`vqtrt export .* --target tensorrt-rtx --precision fp32`"
    with pytest.raises(VqtrtError, match=f"no tensorrt-rtx engine of 'encoder' .*{command}"):
        TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")
    build(bundle, "tensorrt-rtx", SIZES)
    (plan,) = (bundle.path / "engines").glob("encoder-*.engine")
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    with pytest.raises(VqtrtError, match=f"is damaged .*{command}"):
        TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")


def test_files_are_looked_at_once(
    bundle: Bundle, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, paths = plans.read_info, []

    def counted(path: Path, build: str) -> PlanInfo:
        paths.append(path)
        return read(path, build)

    monkeypatch.setattr(plans, "read_info", counted)
    encode = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")
    seen = len(paths)
    for n, side in ((1, 8), (2, 8), (3, 12), (4, 16), (9, 20)):
        encode(pictures(n, side, side))
    assert len(paths) == seen == 4 + 1  # each once, and again the one whose plan was loaded


def test_a_copy_loads_its_own_plans(bundle: Bundle, module: FakeTensorRT) -> None:
    engine = TensorRTEngine(bundle, EngineOptions("tensorrt"), graphs=False)
    encode = engine.open("encoder")
    codes = encode(pictures(3))
    np.testing.assert_array_equal(deepcopy(encode)(pictures(3)), codes)
    for copy in (pickle.loads(pickle.dumps(engine)), deepcopy(engine)):  # noqa: S301
        assert (copy.name, copy.graphs, copy.device) == ("tensorrt", False, 0)
        np.testing.assert_array_equal(copy.open("encoder")(pictures(3)), codes)
        assert copy.plan("encoder", {}) is not engine.plan("encoder", {})


def test_threads_load_a_plan_once(bundle: Bundle, module: FakeTensorRT) -> None:
    engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    encode, reference = engine.open("encoder"), OnnxRuntimeEngine(bundle).open("encoder")

    def run(n: int) -> None:
        np.testing.assert_array_equal(encode(pictures(n)), reference(pictures(n)))
        engine.open("decoder")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(1, 9)))
    assert len(module.loggers) == 2  # a runtime for each graph
