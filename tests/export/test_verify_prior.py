import shutil

import pytest
from safetensors.torch import load_file, save_file

from vqtrt.config.location import find_model
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.export.verify_prior import TOLERANCES, verify_prior
from vqtrt.models.wavenet_step import WaveNetStep


def test_passes(tiny_prior):
    found = verify_prior(find_model(tiny_prior), "pixelcnn", options=EngineOptions("onnxruntime"))
    assert found["passed"] is True
    assert 0 <= found["logits_max_abs_diff"] <= TOLERANCES["fp32"]
    assert found["sample_agreement"] == 1
    assert (found["prior"], found["engine"]) == ("pixelcnn", "onnxruntime")


def test_half(half_run):
    found = verify_prior(
        find_model(half_run), "pixelcnn", options=EngineOptions("onnxruntime", precision="fp16")
    )
    assert found["passed"] is True
    # Not the fp32 graphs by mistake.
    assert TOLERANCES["fp32"] < found["logits_max_abs_diff"] <= TOLERANCES["fp16"]


def test_two_codebooks(tiny_prior2):
    found = verify_prior(find_model(tiny_prior2), "pixelcnn", options=EngineOptions("torch"))
    assert found["passed"] is True
    assert found["sample_agreement"] == 1


def test_speech(tiny_speech_prior):
    found = verify_prior(find_model(tiny_speech_prior), "wavenet", options=EngineOptions("torch"))
    assert found["passed"] is True
    assert 0 < found["logits_max_abs_diff"] <= TOLERANCES["fp32"]
    assert found["sample_agreement"] == 1
    assert (found["prior"], found["engine"]) == ("wavenet", "torch")


def test_finds_a_cache_of_speech_that_comes_back_too_soon(tiny_speech_prior, monkeypatch):
    made = WaveNetStep.caches

    def soon(step):
        return [cache.model_copy(update={"delay": 1}) for cache in made(step)]

    monkeypatch.setattr(WaveNetStep, "caches", soon)
    found = verify_prior(find_model(tiny_speech_prior), "wavenet", options=EngineOptions("torch"))
    assert found["passed"] is False


def test_finds_weights_that_differ(tiny_prior, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_prior, run)
    path = run / "priors" / "pixelcnn" / "model.safetensors"
    weights = load_file(path)
    weights["layers.1.horizontal.weight"] += 0.01
    save_file(weights, path)
    found = verify_prior(find_model(run), "pixelcnn", options=EngineOptions("onnxruntime"))
    assert found["passed"] is False
    assert found["logits_max_abs_diff"] > TOLERANCES["fp32"]


def test_needs_the_run_and_its_prior(tiny_prior, tmp_path):
    alone = shutil.copytree(tiny_prior / "bundle", tmp_path / "alone")
    with pytest.raises(VqtrtError, match="pass the run"):
        verify_prior(find_model(alone), "pixelcnn")
    run = tmp_path / "run"
    shutil.copytree(tiny_prior, run)
    shutil.rmtree(run / "priors")
    with pytest.raises(VqtrtError, match="no prior 'pixelcnn'"):
        verify_prior(find_model(run), "pixelcnn", options=EngineOptions("onnxruntime"))
