import shutil

import numpy as np
import onnxruntime
import pytest

from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, file_sha256


def damaged(tiny_bundle, tmp_path, content):
    """A bundle whose encoder is `content`, with the right hash."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "encoder.onnx").write_bytes(content)
    info = Bundle.open(bundle).info
    spec = info.graphs["encoder"]
    spec = spec.model_copy(update={"sha256": file_sha256(bundle / "encoder.onnx")})
    Bundle.write_info(bundle, info.model_copy(update={"graphs": info.graphs | {"encoder": spec}}))
    return Bundle.open(bundle)


def test_facts_are_those_of_the_bundle(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    engine = OnnxRuntimeEngine(bundle)
    assert engine.name == "onnxruntime"
    assert engine.info == bundle.info.model
    assert engine.preprocessing == bundle.info.preprocessing
    assert engine.weights_sha256 == file_sha256(tiny_bundle.parent / "model.safetensors")


def test_half_graphs_run(half_run):
    bundle = Bundle.open(half_run / "bundle")
    images = np.random.default_rng(0).integers(256, size=(3, 8, 12, 3), dtype=np.uint8)
    half, full = (OnnxRuntimeEngine(bundle, EngineOptions(precision=p)) for p in ("fp16", "fp32"))
    codes = half.open("encoder")(images)
    assert (codes.dtype, codes.shape) == (np.int32, (3, 2, 3))
    assert (codes == full.open("encoder")(images)).mean() > 0.9
    one, other = (engine.open("decoder")(codes).astype(int) for engine in (half, full))
    assert 0 < np.abs(one - other).max() <= 2
    bound = half.bind("priors/pixelcnn/row", {"batch": 2, "width": 4})
    bound.run()
    assert bound.outputs["bias"].dtype == np.float32


def test_bf16_is_refused_in_one_line(half_run, capfd):
    engine = OnnxRuntimeEngine(Bundle.open(half_run / "bundle"), EngineOptions(precision="bf16"))
    with pytest.raises(VqtrtError, match=r"refuses the graph 'bf16/encoder'.*--precision fp16"):
        engine.open("encoder")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [None, 1])
def test_graphs_run(tiny_bundle, threads):
    engine = OnnxRuntimeEngine(Bundle.open(tiny_bundle), EngineOptions(threads=threads))
    codes = engine.open("encoder")(np.zeros((3, 8, 12, 3), np.uint8))
    assert (codes.dtype, codes.shape) == (np.int32, (3, 2, 3))
    images = engine.open("decoder")(codes)
    assert (images.dtype, images.shape) == (np.uint8, (3, 8, 12, 3))


def test_threads_and_spinning_reach_the_session(tiny_bundle, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def session(content, options, providers):
        seen.append((options.intra_op_num_threads, providers))
        key = "session.intra_op.allow_spinning"
        assert options.get_session_config_entry(key) == "0"
        return real(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxRuntimeEngine(Bundle.open(tiny_bundle), EngineOptions(threads=3)).open("encoder")
    OnnxRuntimeEngine(Bundle.open(tiny_bundle)).open("encoder")
    assert seen == [(3, ["CPUExecutionProvider"]), (0, ["CPUExecutionProvider"])]


def test_a_damaged_graph_does_not_reach_the_runtime(tiny_bundle, tmp_path, monkeypatch):
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    content = bytearray((bundle / "encoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "encoder.onnx").write_bytes(content)

    def never(*args, **kwargs):
        raise AssertionError("the runtime saw unchecked bytes")

    monkeypatch.setattr(onnxruntime, "InferenceSession", never)
    with pytest.raises(VqtrtError, match=r"encoder\.onnx is damaged"):
        OnnxRuntimeEngine(Bundle.open(bundle)).open("encoder")


@pytest.mark.parametrize("content", [b"", b"not a protobuf", b"\x08\x0a"])
def test_a_graph_that_the_runtime_refuses_is_one_line(tiny_bundle, tmp_path, content, capfd):
    engine = OnnxRuntimeEngine(damaged(tiny_bundle, tmp_path, content))
    with pytest.raises(VqtrtError, match="refuses the graph 'encoder'") as error:
        engine.open("encoder")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_graph_of_other_inputs_is_one_line(tiny_bundle, tmp_path):
    from onnx import TensorProto, helper

    names = ("a", "b")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in (*names, "sum")]
    graph = helper.make_graph(
        [helper.make_node("Add", names, ["sum"])], "two", ports[:2], ports[2:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    engine = OnnxRuntimeEngine(damaged(tiny_bundle, tmp_path, model.SerializeToString()))
    with pytest.raises(VqtrtError, match="makes sum of a and b, not one array of images"):
        engine.open("encoder")


def test_an_array_that_does_not_fit_is_one_line(tiny_bundle, capfd):
    run = OnnxRuntimeEngine(Bundle.open(tiny_bundle)).open("encoder")
    with pytest.raises(VqtrtError, match=r"cannot run the graph 'encoder' on float64") as error:
        run(np.zeros((1, 8, 8, 3)))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_no_such_graph(tiny_bundle):
    with pytest.raises(VqtrtError, match=r"no graph 'prior'.*it has encoder, decoder"):
        OnnxRuntimeEngine(Bundle.open(tiny_bundle)).open("prior")
