"""Half precision is in the graphs themselves: the types that a strongly typed runtime will see."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from vqtrt.errors import VqtrtError
from vqtrt.export.bundle import export_run
from vqtrt.export.onnx import BF16_OPSET, OPSET
from vqtrt.formats.bundle import Bundle
from vqtrt.models.runs import ImageRun

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
FULL = {"ArgMin", "ArgMax", "Softmax", "CumSum", "TopK", "Round", "Clip"}
"""What decides on a code or makes bytes: never in half."""


def typed(path):
    """A graph's nodes, each with the element types of what it takes."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    graph = proto.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return [(node, [types[name] for name in node.input if name]) for node in graph.node]


@pytest.fixture(scope="module")
def bundle(half_run):
    return Bundle.open(half_run / "bundle")


@pytest.mark.parametrize("precision", HALVES)
def test_every_graph_is_there_with_the_inputs_and_outputs_of_fp32(bundle, precision):
    plain = {name for name in bundle.info.graphs if not name.startswith(("fp16/", "bf16/"))}
    assert len(plain) == 6
    assert len(bundle.info.graphs) == 18
    for name in plain:
        full, half = bundle.info.graphs[name], bundle.info.graphs[f"{precision}/{name}"]
        assert (half.inputs, half.outputs) == (full.inputs, full.outputs)
        assert half.file == f"{precision}/{name}.onnx"
        onnx.checker.check_model(onnx.load(bundle.path / half.file), full_check=True)


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("name", ["encoder", "decoder", "row", "step", "step_filtered", "logits"])
def test_products_are_in_half_and_decisions_are_not(bundle, precision, name):
    path = f"{name}.onnx" if name.endswith("coder") else f"priors/pixelcnn/{name}.onnx"
    nodes = typed(bundle.path / precision / path)
    products = [(node, types) for node, types in nodes if node.op_type in PRODUCTS]
    full = [types for _, types in products if set(types) != {HALVES[precision]}]
    # In fp32 are the last convolution of the encoder, which makes z, and the distances.
    wanted = [[TensorProto.FLOAT] * 2] * 2 if name == "encoder" else []
    assert [types[:2] for types in full] == wanted
    assert len(products) > len(full)
    for node, types in nodes:
        if node.op_type in FULL:
            assert HALVES[precision] not in types, node.op_type


def test_bytes_stay_at_the_edges(bundle):
    for precision in HALVES:
        for name in ("encoder", "decoder"):
            nodes = typed(bundle.path / precision / f"{name}.onnx")
            takers = [node.op_type for node, types in nodes if TensorProto.UINT8 in types]
            assert takers == (["Cast"] if name == "encoder" else [])
            assert nodes[-1][0].op_type == "Cast"


def test_bf16_has_no_transposed_convolution(bundle):
    kinds = [node.op_type for node, _ in typed(bundle.path / "bf16/decoder.onnx")]
    assert "ConvTranspose" not in kinds
    assert kinds.count("DepthToSpace") == 2


def test_the_fp32_graphs_are_the_same_beside_others(bundle, tiny_prior):
    alone = Bundle.open(tiny_prior / "bundle").info.graphs
    assert alone == {name: bundle.info.graphs[name] for name in alone}


def test_an_export_leaves_the_model_as_it_was(tiny_run, tmp_path, monkeypatch):
    run = ImageRun.open(tiny_run)
    model = run.load_model()
    monkeypatch.setattr(ImageRun, "load_model", lambda self: model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_run(run, tmp_path / "bundle", ("fp16",))
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        np.testing.assert_array_equal(value, before[name])


def test_a_precision_that_there_is_not(tiny_run, tmp_path):
    with pytest.raises(VqtrtError, match="no precision 'fp8': choose of fp32, fp16, bf16"):
        export_run(ImageRun.open(tiny_run), tmp_path / "bundle", ("fp8",))
    assert not (tmp_path / "bundle").exists()


def test_opset(bundle):
    assert bundle.info.opset == OPSET
    for name, spec in bundle.info.graphs.items():
        (opset,) = onnx.load(bundle.path / spec.file).opset_import
        assert opset.version == (BF16_OPSET if name.startswith("bf16/") else OPSET), name
