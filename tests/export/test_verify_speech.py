import hashlib
import shutil

import numpy as np
import onnx
import pytest

from vqtrt.artefacts import find_model
from vqtrt.bundle import Bundle
from vqtrt.engines import EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.export.run import items_for, verify_all, verify_bundle
from vqtrt.export.verify_speech import clips_for, made_clips, verify_speech


@pytest.fixture
def clips():
    return list(made_clips(8000, 4))


def test_an_exported_conv_model_agrees(tiny_speech, clips):
    figures = verify_speech(find_model(tiny_speech), clips, options=EngineOptions("onnxruntime"))
    assert figures["passed"]
    assert figures["code_agreement_beyond_margin"] == 1
    assert figures["batch_invariance"] == figures["chunk_invariance"] == 1
    assert figures["decoder_max_abs_diff"] <= 1e-4
    assert (figures["clips"], figures["precision"]) == (4, "fp32")


def test_an_exported_wavenet_agrees_over_4096_samples(tiny_wavenet, clips):
    figures = verify_speech(find_model(tiny_wavenet), clips, options=EngineOptions("onnxruntime"))
    assert figures["passed"]
    assert 0 < figures["logits_max_abs_diff"] <= 1e-4


def test_changed_weights_of_a_graph_are_found(tiny_wavenet, clips, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_wavenet, run)
    bundle = Bundle.open(run / "bundle")
    graph = onnx.load(run / "bundle" / "step.onnx")
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 50:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * 1.01, tensor.name))
    content = graph.SerializeToString()
    (run / "bundle" / "step.onnx").write_bytes(content)
    spec = bundle.info.graphs["step"].model_copy(
        update={"sha256": hashlib.sha256(content).hexdigest()}
    )
    graphs = bundle.info.graphs | {"step": spec}
    Bundle.write_info(run / "bundle", bundle.info.model_copy(update={"graphs": graphs}))
    figures = verify_speech(find_model(run), clips, options=EngineOptions("onnxruntime"))
    assert not figures["passed"]
    assert figures["logits_max_abs_diff"] > 1e-4


def test_a_bundle_is_verified_on_what_its_run_held_out(tiny_speech):
    figures = verify_bundle(find_model(tiny_speech))
    assert figures["passed"]
    held_out = list(clips_for(find_model(tiny_speech), None, limit=100))
    assert figures["clips"] == len(held_out) >= 1


def test_recordings_can_be_named(tiny_speech, speech_data):
    model = find_model(tiny_speech)
    items = items_for(model, str(speech_data), "all", limit=2, workers=1)
    figures = verify_all(model, items, options=EngineOptions("torch"))
    assert figures["clips"] == 2
    assert figures["passed"]


def test_other_weights_and_nothing_to_compare(tiny_speech, tiny_wavenet, tmp_path, clips):
    run = tmp_path / "run"
    shutil.copytree(tiny_speech, run)
    shutil.copy(tiny_wavenet / "model.safetensors", run / "model.safetensors")
    with pytest.raises(VqtrtError, match="exported from other weights"):
        verify_speech(find_model(run), clips, options=EngineOptions("onnxruntime"))
    with pytest.raises(VqtrtError, match="at least one recording"):
        verify_speech(find_model(tiny_speech), [], options=EngineOptions("torch"))
