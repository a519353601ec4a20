"""TensorRT on a real NVIDIA GPU: `pytest -m gpu`. Each package that is installed is tested.

`test_gpu_doubles.py` runs the same tests without a GPU.
"""

import shutil
from typing import Any

import numpy as np
import pytest

from vqtrt.config.location import ModelLocation
from vqtrt.engines import cuda
from vqtrt.engines.base import Engine
from vqtrt.engines.noise import noise
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.row_loop import HostRowLoop
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.export import verify
from vqtrt.export.tensorrt import build as tensorrt
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler, PixelCNNSampler

pytestmark = pytest.mark.gpu
BATCH = "1,4,16"
LABELS = np.arange(24, dtype=np.int32) % 3


@pytest.fixture(scope="module", params=["tensorrt-rtx", "tensorrt"])
def package(request):
    if not trt_package.installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def model(tiny_prior, tmp_path_factory, package):
    """A run whose bundle has the package's engines."""
    run = tmp_path_factory.mktemp("gpu") / "run"
    shutil.copytree(tiny_prior, run)
    bundle = Bundle.open(run / "bundle")
    tensorrt.build_engines(bundle, tensorrt.engine_options(package, BATCH))
    return ModelLocation(run, run / "bundle", "named")


def pictures(n):
    return np.random.default_rng(n).integers(256, size=(n, 16, 16, 3), dtype=np.uint8)


def test_memory_copies_and_graphs():
    stream, memory = cuda.Stream(), cuda.DeviceArray(4096)
    there, back = cuda.pinned((1024,), np.int32), cuda.pinned((1024,), np.int32)

    def work():
        stream.copy_in(memory.address, there)
        stream.zero(memory.address, 256)
        stream.copy_out(back, memory.address)

    repeated = cuda.Repeated(stream)
    for turn in range(4):
        there[:] = np.arange(1024) + turn
        repeated.run(1, work)
        stream.wait()
        np.testing.assert_array_equal(back[64:], there[64:])
        assert (back[:64] == 0).all()
    assert repeated.captured, repeated.refused


def test_what_the_gpu_refuses():
    with pytest.raises(VqtrtError, match="out of GPU memory"):
        cuda.DeviceArray(2**46)
    cuda.DeviceArray(16)


def check_verified(model, engine, monkeypatch):
    monkeypatch.setattr(verify, "open_engine", lambda *args, **options: engine)
    figures = verify.verify(model, [pictures(33), pictures(7)])
    assert figures["passed"], figures
    assert figures["code_agreement_beyond_margin"] == 1


@pytest.mark.parametrize("graphs", [True, False])
def test_codes_are_those_of_torch(model, package, monkeypatch, graphs):
    # 33 and 7 pictures: more than the largest batch, and no multiple of it.
    check_verified(
        model,
        TensorRTEngine(model.open_bundle(), EngineOptions(package), graphs=graphs),
        monkeypatch,
    )


@pytest.mark.parametrize("graphs", [True, False])
def test_batches_are_split_and_repeated(model, package, graphs):
    encode = TensorRTEngine(model.open_bundle(), EngineOptions(package), graphs=graphs).open(
        "encoder"
    )
    images = pictures(200)
    comparison = verify._Comparison(TorchEngine(model.run, device="cpu"))
    whole, seen = encode(images), {}
    for n in (1, 1, 1, 16, 16, 16, 17, 200, 200):
        codes = encode(images[:n])
        # Kernels are chosen by the batch, which decides ties; the same batch gives the same.
        np.testing.assert_array_equal(codes, seen.setdefault(n, codes))
        comparison.judge(comparison.batches, images[:n], whole[:n], codes)
    assert comparison.batches.good, comparison.batches.figures()


def agreement(one, other):
    """The share of equal codes: one draw within rounding of a boundary changes what follows."""
    return (one == other).mean()


@pytest.mark.parametrize(
    "draw",
    [SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_k=5, top_p=0.8)],
    ids=["plain", "cold", "filter"],
)
def test_samples_are_those_of_the_cpu(model, package, draw):
    bundle = model.open_bundle()
    drawn = {}
    engines: dict[str, Engine] = {
        "graphs": TensorRTEngine(bundle, EngineOptions(package)),
        "plain": TensorRTEngine(bundle, EngineOptions(package), graphs=False),
        "cpu": OnnxRuntimeEngine(bundle),
    }
    for name, engine in engines.items():
        sampler = BatchSampler(engine, "pixelcnn", 16, 24, 4)
        drawn[name] = [sampler.sample(draw, range(24), 6, labels=LABELS) for _ in range(3)]
        # The first rows run plainly, the next are captured, the others replayed.
        for again in drawn[name][1:]:
            np.testing.assert_array_equal(again, drawn[name][0])
    np.testing.assert_array_equal(drawn["graphs"][0], drawn["plain"][0])
    assert agreement(drawn["graphs"][0], drawn["cpu"][0]) > 0.98


def test_the_loop_on_the_gpu_is_the_one_on_the_host(model, package):
    engine = TensorRTEngine(model.open_bundle(), EngineOptions(package))
    names = ("priors/pixelcnn/row", "priors/pixelcnn/step")

    def on_the_host(prior, step, sizes, *, start_code):
        return Engine._bind_rows(engine, names, sizes, start_code, None)

    host = PixelCNNSampler(on_the_host, "pixelcnn", 16, 8, 4)
    assert isinstance(host._loop(SamplingParams()), HostRowLoop)
    loop = PixelCNNSampler(engine.bind_rows, "pixelcnn", 16, 8, 4)
    drawn = [each.sample(SamplingParams(), range(8), 6, labels=LABELS[:8]) for each in (host, loop)]
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_a_row_is_captured(model, package):
    engine = TensorRTEngine(model.open_bundle(), EngineOptions(package))
    loop: Any = engine.bind_rows("pixelcnn", "step", {"batch": 8, "width": 4}, start_code=16)
    loop.inputs["temperature"][:] = 1
    loop.begin()
    for row in range(4):
        loop.inputs["above"][:] = loop.codes.swapaxes(0, 1) if row else 16
        loop.inputs["noise"][:] = noise(0, range(4), 8).reshape(4, 8, 1)
        loop.draw()
    assert loop.captured, loop.refused


def test_engines_that_do_not_fit(model, package, tmp_path):
    engine = TensorRTEngine(model.open_bundle(), EngineOptions(package))
    with pytest.raises(VqtrtError, match=r"--size.*vqtrt export"):
        engine.open("encoder")(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(VqtrtError, match=r"--batch.*vqtrt export"):
        engine.bind("priors/pixelcnn/row", {"batch": 99, "width": 4})
    shutil.copytree(model.bundle, tmp_path / "bundle")
    for plan in (tmp_path / "bundle" / "engines").glob("encoder-*.engine"):
        plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(VqtrtError, match="is damaged"):
        TensorRTEngine(Bundle.open(tmp_path / "bundle"), EngineOptions(package)).open("encoder")


def test_pictures_survive(model, package):
    bundle = model.open_bundle()
    engine, reference = TensorRTEngine(bundle, EngineOptions(package)), OnnxRuntimeEngine(bundle)
    images = pictures(40)
    codes = reference.open("encoder")(images)
    made, expected = (each.open("decoder")(codes).astype(int) for each in (engine, reference))
    assert abs(made - expected).max() <= 1
