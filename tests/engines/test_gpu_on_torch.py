"""The code around TensorRT on a real GPU, whose engines torch stands in for: `pytest -m gpu`.

The tests of `test_gpu.py` run here on any NVIDIA GPU, on those also that TensorRT for RTX refuses.
`test_gpu_on_torch_doubles.py` runs some of them without a GPU.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engines import test_gpu
from tensorrt_doubles import build
from torch_engine_doubles import TorchTensorRT, torch_for_tensorrt

from vqtrt.audio.wavenet_decoder import WaveNetDecoder
from vqtrt.config.location import ModelLocation
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.formats.bundle import Bundle

pytestmark = pytest.mark.gpu

globals().update({name: test for name, test in vars(test_gpu).items() if name.startswith("test_")})


@pytest.fixture(scope="module", params=["tensorrt-rtx", "tensorrt"])
def package(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(
    tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory, package: str
) -> ModelLocation:
    run = tmp_path_factory.mktemp("gpu") / "run"
    shutil.copytree(tiny_prior, run)
    sizes = dict.fromkeys(("h", "w", "height", "width"), (4, 4))
    build(Bundle.open(run / "bundle"), package, {"batch": (1, 16)} | sizes)
    return ModelLocation(run, run / "bundle", "named")


@pytest.fixture(autouse=True)
def module(model: ModelLocation) -> Iterator[TorchTensorRT]:
    assert model.run is not None
    with torch_for_tensorrt(model.run) as found:
        yield found


def test_audio_of_the_loop_on_the_gpu(tiny_wavenet: Path, tmp_path: Path, package: str) -> None:
    """Clips of other lengths; captured and plain are the same to the bit, and near the CPU's."""
    run = tmp_path / "run"
    shutil.copytree(tiny_wavenet, run)
    bundle = Bundle.open(run / "bundle")
    build(bundle, package, {"batch": (1, 12), "t": (1, 70)})
    random = np.random.default_rng(5)
    clips = [random.integers(0, 8, n).astype(np.int32) for n in (9, 40, 3, 17, 70, 1)]
    speakers = [0, 1, 2, 0, 1, 2]
    with torch_for_tensorrt(run):
        captured, plain = (
            WaveNetDecoder(
                TensorRTEngine(bundle, EngineOptions(package), graphs=graphs), batch_size=16
            )
            for graphs in (True, False)
        )
        first, second = captured.decode(clips, speakers), captured.decode(clips, speakers)
        expected = plain.decode(clips, speakers)
    cpu = WaveNetDecoder(OnnxRuntimeEngine(bundle)).decode(clips, speakers)
    for one, again, other, reference in zip(first, second, expected, cpu, strict=True):
        np.testing.assert_array_equal(one, again)
        np.testing.assert_array_equal(one, other)
        assert one.shape == reference.shape
        # Sampled: a level within rounding of a boundary changes all that follows.
        np.testing.assert_array_equal(one[:32], reference[:32])
