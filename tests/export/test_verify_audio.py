import hashlib
import shutil

import numpy as np
import onnx
import pytest
import speech_runs
import torch

from vqtrt.config.location import find_model
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.export import verify_audio as verify_speech_module
from vqtrt.export.code_agreement import MARGIN
from vqtrt.export.run import items_for, verify_all, verify_bundle
from vqtrt.export.verify_audio import clips_for, made_clips, verify_speech
from vqtrt.formats.bundle import Bundle
from vqtrt.models.runs import AudioRun
from vqtrt.models.weights import save_weights


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


@pytest.mark.parametrize("tie", [True, False])
def test_batches_are_judged_by_margin(clips, monkeypatch, tmp_path, tie):
    """An engine that chooses kernels by the batch decides ties otherwise in each."""
    run = speech_runs.copied("conv", tmp_path).run
    model = AudioRun.open(run).load_model()
    if tie:
        model.quantizer.codebook[0, 5] = model.quantizer.codebook[0, 3]
        save_weights(model, run / "model.safetensors")

    class Moody(TorchEngine):
        def open(self, graph):
            opened = super().open(graph)

            def encode(audio):
                codes = opened(audio)
                return np.where((codes == 3) & (len(audio) > 1), 5, codes)

            return encode if graph == "encoder" else opened

    monkeypatch.setattr(verify_speech_module, "open_engine", lambda *_: Moody(run, device="cpu"))
    alike = [clip[:4000] for clip in clips]  # of one length: they share a batch
    figures = verify_speech(find_model(run), alike, options=EngineOptions("torch"))
    assert figures["batch_invariance"] < 1
    assert (figures["code_agreement"], figures["chunk_invariance"]) == (1, 1)
    assert (figures["batch_invariance_beyond_margin"] == 1) is tie
    assert (figures["max_batch_margin"] <= MARGIN) is tie
    assert figures["passed"] is tie


def test_codes_that_differ_are_judged_by_what_they_see(clips):
    """In parts of a long clip, at its ends too, as if all of it went through the encoder."""
    model = AudioRun.open(speech_runs.exported("conv").run).load_model()
    comparison = verify_speech_module._Comparison(model, "fp32", model.encoder.context)
    clip = np.concatenate(clips)[: 16 * 700 + 3]
    codes = comparison.expected(clip)
    other = codes.copy()
    for place in (0, 255, 256, 300, 700):
        other[place] = (other[place] + 1) % 16
    parts, whole = comparison.counts(), comparison.counts()
    comparison.judge(parts, clip, codes, other)
    whole.add(len(codes))
    whole.add_mismatches(comparison._vectors(clip), codes, other)
    assert parts.mismatches == whole.mismatches == 5
    assert parts.codes == 701
    assert parts.max_margin == pytest.approx(whole.max_margin, rel=1e-9)


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


@pytest.mark.parametrize("damage", [1.0, 1.02])
def test_float32_rounding_of_large_activations_is_no_fault(clips, damage):
    model = AudioRun.open(speech_runs.exported("conv").run).load_model()
    last = [part for part in model.encoder.modules() if isinstance(part, torch.nn.Conv1d)][-1]
    with torch.no_grad():
        last.bias += 20  # rounded to 2e-6 in float32
        model.quantizer.codebook += 20
    comparison = verify_speech_module._Comparison(model, "fp32", model.encoder.context)
    clip = np.resize(np.concatenate(clips), 16 * 40_000).astype(np.float32)
    clip *= np.linspace(0.5, 1, len(clip), dtype=np.float32)
    counts = comparison.counts()
    rounded = comparison._vectors(clip * np.float32(damage), torch.float32).double()
    comparison.judge(
        counts, clip, comparison.expected(clip), counts.expected(rounded).numpy()[:, 0]
    )
    assert counts.mismatches > 0
    assert counts.good is (damage == 1)
