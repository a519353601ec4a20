"""ONNX Runtime's CUDA provider on a real NVIDIA GPU: `pytest -m gpu`."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from engines.test_gpu import LABELS, agreement, check_verified, pictures

from vqtrt.audio.wavenet_decoder import WaveNetDecoder
from vqtrt.config.location import ModelLocation
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True, scope="module")
def provider() -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has no CUDA provider")


@pytest.fixture(scope="module")
def model(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelLocation:
    run = tmp_path_factory.mktemp("gpu") / "run"
    shutil.copytree(tiny_prior, run)
    return ModelLocation(run, run / "bundle", "named")


def test_codes_are_those_of_torch(model: ModelLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    check_verified(model, OnnxRuntimeCudaEngine(model.open_bundle()), monkeypatch)


def test_images_are_within_a_level_of_the_cpu(model: ModelLocation) -> None:
    bundle = model.open_bundle()
    codes = OnnxRuntimeEngine(bundle).open("encoder")(pictures(40))
    made, expected = (
        engine.open("decoder")(codes).astype(int)
        for engine in (OnnxRuntimeCudaEngine(bundle), OnnxRuntimeEngine(bundle))
    )
    assert abs(made - expected).max() <= 1


def test_samples_are_those_of_the_cpu(model: ModelLocation) -> None:
    bundle = model.open_bundle()
    drawn = [
        BatchSampler(engine, "pixelcnn", 16, 24, 4).sample(
            SamplingParams(), range(24), 6, labels=LABELS
        )
        for engine in (OnnxRuntimeCudaEngine(bundle), OnnxRuntimeEngine(bundle))
    ]
    assert agreement(*drawn) > 0.98


def test_audio_is_that_of_the_cpu(tiny_wavenet: Path) -> None:
    bundle = Bundle.open(tiny_wavenet / "bundle")
    random = np.random.default_rng(5)
    clips = [random.integers(0, 8, n).astype(np.int32) for n in (9, 40, 3, 17, 70, 1)]
    speakers = [0, 1, 2, 0, 1, 2]
    found, again, expected = (
        WaveNetDecoder(engine, batch_size=4).decode(clips, speakers)
        for engine in (
            OnnxRuntimeCudaEngine(bundle),
            OnnxRuntimeCudaEngine(bundle),
            OnnxRuntimeEngine(bundle),
        )
    )
    for one, other, reference in zip(found, again, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == reference.shape
        # Sampled: a level within rounding of a boundary changes all that follows.
        np.testing.assert_array_equal(one[:32], reference[:32])
