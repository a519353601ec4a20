import numpy as np
import pytest
import torch
from prior_doubles import (
    RATE,
    STRIDE,
    K,
    clip_codes,
    exported_prior,
    small_prior_engine,
    write_prior,
)

from vqtrt.audio.sampler import ClipRequest, sample_clips
from vqtrt.audio.score import score_codes
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.export.verify_prior import TOLERANCES, cached_clip_logits
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams


@pytest.fixture(scope="module")
def torch_engine():
    return small_prior_engine()


@pytest.fixture(scope="module")
def bundle():
    return Bundle.open(exported_prior())


@pytest.fixture(scope="module")
def engine(bundle):
    return OnnxRuntimeEngine(bundle, EngineOptions(threads=1))


def test_the_tables(bundle):
    parts = ("step", "step_filtered", "logits")
    assert list(bundle.info.graphs) == [f"priors/wavenet/{part}" for part in parts]
    step, filtered, logits = bundle.info.graphs.values()
    assert [tensor.name for tensor in step.inputs][:4] == [
        "previous",
        "speakers",
        "noise",
        "temperature",
    ]
    delays = [tensor.delay for tensor in step.inputs if tensor.name.startswith("cache")]
    assert delays == [1, 2, 4]
    assert {"top_k", "top_p"} <= {tensor.name for tensor in filtered.inputs}
    assert logits.outputs[0].shape == ("batch", "t", K)


@pytest.mark.parametrize("how", [{}, {"top_k": 5, "temperature": 0.8}])
def test_clips_are_those_of_torch(engine, torch_engine, how):
    request = ClipRequest("wavenet", 16, 60 * STRIDE / RATE, SamplingParams(**how))
    expected = np.stack(sample_clips(torch_engine, request).codes)
    assert len(np.unique(expected)) > 6
    for batch in (1, 4, 16):
        found = sample_clips(engine, request, batch_size=batch)
        np.testing.assert_array_equal(np.stack(found.codes), expected)


def test_cached_logits_are_those_of_the_full_pass(engine, torch_engine):
    codes = np.random.default_rng(0).integers(0, K, (4, 300)).astype(np.int32)
    speakers = np.arange(4, dtype=np.int32) % 3
    expected = torch_engine.prior(torch.from_numpy(codes), torch.from_numpy(speakers)).numpy()
    found = cached_clip_logits(engine, "wavenet", codes, speakers)
    assert np.abs(found - expected).max() < TOLERANCES["fp32"]


@pytest.mark.slow
def test_half(tmp_path, torch_engine):
    bundle = write_prior(tmp_path, torch_engine, "fp16")
    half = OnnxRuntimeEngine(bundle, EngineOptions(threads=1, precision="fp16"))
    codes = np.random.default_rng(0).integers(0, K, (2, 50)).astype(np.int32)
    both = [
        cached_clip_logits(each, "wavenet", codes, np.zeros(2, np.int32))
        for each in (half, torch_engine)
    ]
    difference = np.abs(both[0] - both[1]).max()
    # Not the fp32 graphs by mistake.
    assert TOLERANCES["fp32"] < difference < TOLERANCES["fp16"]


def test_scores_are_those_of_torch(engine, torch_engine):
    codes = clip_codes([1, 30, 3, 100, 47], [0, 1, 2, 0, 1])
    expected = score_codes(torch_engine, "wavenet", codes) | {"engine": "onnxruntime"}
    found = score_codes(engine, "wavenet", codes, batch_size=3)
    assert found.pop("bits_per_code") == pytest.approx(expected.pop("bits_per_code"), rel=1e-5)
    assert found["prior"] == expected["prior"]
    assert found["clips"] == 5
