"""Bundles without engines, and graphs that TensorRT compiles in a moment."""

import shutil
from pathlib import Path

from onnx import TensorProto, helper

from vqtrt.engines.tensorrt.package import PackageName
from vqtrt.engines.tensorrt.plan_info import Profile
from vqtrt.export.tensorrt.report import Layer
from vqtrt.formats.bundle import Bundle

RTX: PackageName = "tensorrt-rtx"
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def without_engines(folder: Path, tmp_path: Path) -> Bundle:
    """A copy of a bundle, without engines."""
    shutil.copytree(folder, tmp_path / "bundle", ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(tmp_path / "bundle")


def model(nodes, ins, outs, constants=()) -> bytes:
    """An ONNX file; `ins` and `outs` are (name, type, shape)."""
    inputs, outputs = (
        [helper.make_tensor_value_info(*each) for each in part] for part in (ins, outs)
    )
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def products(first: str, second: str) -> bytes:
    """Two matrix products one after the other, each in its precision, between float32."""
    nodes, at = [], "x"
    for index, precision in enumerate((first, second)):
        kind = TYPES[precision]
        nodes += [
            helper.make_node("Cast", [at], [f"in{index}"], to=kind),
            helper.make_node("Cast", ["weight"], [f"weight{index}"], to=kind),
            helper.make_node("MatMul", [f"in{index}", f"weight{index}"], [f"out{index}"]),
        ]
        at = f"out{index}"
    nodes.append(helper.make_node("Cast", [at], ["y"], to=TensorProto.FLOAT))
    weight = helper.make_tensor("weight", TensorProto.FLOAT, (4, 4), [0.5] * 16)
    float_ = TensorProto.FLOAT
    return model(nodes, [("x", float_, ["n", 4])], [("y", float_, ["n", 4])], [weight])


PROFILE: Profile = {"x": ((1, 4), (2, 4), (8, 4))}


def layer(kind, source, target, dtype):
    return Layer(f"{kind}-{target}", kind, ((source, dtype),), ((target, dtype),))
