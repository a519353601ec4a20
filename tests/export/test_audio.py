import json

import numpy as np
import onnx
import onnxruntime
import pytest
import speech_runs
import torch
from speech_runs import STRIDE

from vqtrt.export.audio import export_speech_run, speech_graphs
from vqtrt.export.graph_writer import GraphWriter
from vqtrt.export.onnx import OPSET
from vqtrt.formats.bundle import Bundle, file_sha256
from vqtrt.models.audio_graphs import speech_graph
from vqtrt.models.runs import AudioRun, is_audio_run

GRAPHS = {"conv": ("encoder", "decoder"), "wavenet": ("encoder", "conditioning", "step")}


@pytest.fixture(params=GRAPHS)
def exported(request):
    return request.param, speech_runs.exported(request.param)


def session(model, name):
    content = (model.bundle / f"{name}.onnx").read_bytes()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_the_bundle_is_that_of_speech(exported):
    kind, model = exported
    info, run = Bundle.open(model.bundle).info, AudioRun.open(model.run)
    assert is_audio_run(model.run)
    assert (info.kind, info.preprocessing, info.opset) == ("speech", None, OPSET)
    assert tuple(info.graphs) == GRAPHS[kind]
    assert info.source.weights_sha256 == file_sha256(run.weights)
    assert (info.model.stride, info.model.codebook_size) == (STRIDE, 16)
    assert info.speech.speakers == ("ann", "bob")
    assert info.speech.decoder == kind
    built = run.load_model()
    assert info.speech.context == built.encoder.context
    assert info.speech.decoder_context == built.decoder_context
    unrolled = (info.speech.hop, info.speech.unroll)
    assert unrolled == ((8, 2) if kind == "wavenet" else (1, 1))


def test_the_table_is_that_of_the_graphs(exported):
    kind, model = exported
    types = {"int32": "tensor(int32)", "float32": "tensor(float)"}
    for name in GRAPHS[kind]:
        spec, opened = Bundle.open(model.bundle).graph_spec(name), session(model, name)
        assert spec.sha256 == file_sha256(model.bundle / spec.file)
        for told, real in (
            (spec.inputs, opened.get_inputs()),
            (spec.outputs, opened.get_outputs()),
        ):
            assert [(t.name, types[t.dtype], list(t.shape)) for t in told] == [
                (r.name, r.type, r.shape) for r in real
            ]


@pytest.mark.parametrize(("batch", "t"), [(1, 1), (2, 5), (7, 33)])
def test_onnxruntime_does_what_torch_does(exported, batch, t):
    kind, model = exported
    built = AudioRun.open(model.run).load_model()
    rng = np.random.default_rng([batch, t])
    audio = np.stack(speech_runs.recordings([t * STRIDE] * batch))
    given = {
        "audio": audio,
        "codes": rng.integers(0, 17, (batch, t)).astype(np.int32),
        "speakers": rng.integers(0, 3, batch).astype(np.int32),
    }
    for name in GRAPHS[kind][:2]:
        graph = speech_graph(built, name)
        inputs = {tensor.name: given[tensor.name] for tensor in graph.inputs}
        with torch.inference_mode():
            made, _ = graph.call({key: torch.from_numpy(array) for key, array in inputs.items()})
        (expected,) = made.values()
        (found,) = session(model, name).run(None, inputs)
        assert found.shape == expected.shape
        if name == "encoder":
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_step_is_small(exported):
    """What is split and joined at every step counts: sequences, which are slow, are not in it."""
    kind, model = exported
    for name in GRAPHS[kind]:
        proto = onnx.load(model.bundle / f"{name}.onnx")
        operators = [node.op_type for node in proto.graph.node]
        assert not any("Sequence" in operator for operator in operators)
        assert b".py" not in (model.bundle / f"{name}.onnx").read_bytes()
        if name == "step":
            # 6 layers and 2 steps: a sample is an embedding, the layers, and a draw.
            assert len(operators) < 2 * (6 * 7 + 36)


def test_an_export_in_half_repeats_to_the_byte(tmp_path):
    model = speech_runs.exported("conv")
    run = AudioRun.open(model.run)
    first = export_speech_run(run, tmp_path / "first", ["fp16"])
    assert list(first.info.graphs) == ["encoder", "decoder", "fp16/encoder", "fp16/decoder"]
    again = Bundle.open(model.bundle)
    assert {name: spec.sha256 for name, spec in again.info.graphs.items()} == {
        name: first.info.graphs[name].sha256 for name in again.info.graphs
    }
    content = json.loads((tmp_path / "first" / "bundle.json").read_text())
    assert content["speech"]["preprocessing"]["sample_rate"] == 8000
    for name in first.info.graphs:
        types = {t.data_type for t in onnx.load(first.path / f"{name}.onnx").graph.initializer}
        assert (onnx.TensorProto.FLOAT16 in types) == name.startswith("fp16/")


def test_graphs_can_be_left_out(tmp_path):
    writer = GraphWriter(tmp_path)
    speech_graphs(speech_runs.model(), writer, skip=("encoder",))
    assert list(writer.graphs) == ["decoder"]
    assert [path.name for path in tmp_path.iterdir()] == ["decoder.onnx"]
