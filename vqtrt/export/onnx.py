"""Torch to ONNX: one file a graph, whose free sizes stay free.

The dynamo exporter and a pinned opset. The table of inputs and outputs is given by the caller and
compared with what the exporter made; ONNX's own checker has to agree before anything is written.
"""

import functools
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import torch
from torch import nn
from torch.export import Dim

from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import GraphSpec, TensorSpec, axis_size
from vqtrt.models.deployed import DeployedGraph

OPSET = 20
"""The exporter's own in torch 2.11 to 2.13; ONNX Runtime 1.17 and TensorRT 10.13 read it."""
BF16_OPSET = 22
"""Of graphs with bfloat16: the first whose convolutions take it. TensorRT 10.13 also reads it."""

_TYPES: dict[int, str] = {
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.FLOAT: "float32",
}

_DRAWS = ("Bernoulli", "Multinomial")


class FixedSizeError(VqtrtError):
    """An exported graph works at one `size` only, where its table says that any is taken."""

    def __init__(self, message: str, size: str) -> None:
        super().__init__(message)
        self.size = size


_MOST, _MOST_CODES = 16384, 1 << 24
"""The largest that a free size of a table can be, and that of `t`, a clip's length."""


def write_deployed(
    graph: DeployedGraph, example: Mapping[str, int], folder: Path, file: str
) -> GraphSpec:
    """Export a graph with its caches, with all sizes free that its table names.

    `example` gives a number to each of them: it differs from all others and from 1, for the
    exporter takes equal ones for one.
    """
    most = {name: _MOST_CODES if name == "t" else _MOST for name in example}
    free = {name: Dim(name, min=1, max=most[name]) for name in example}

    def tensor_of(tensor: TensorSpec) -> torch.Tensor:
        return torch.zeros(tensor.resolve(example), dtype=getattr(torch, tensor.dtype))

    def axes(tensor: TensorSpec) -> dict[int, Any]:
        dims = ((i, size) for i, size in enumerate(tensor.shape) if isinstance(size, str))
        return {i: _dim(size, free) for i, size in dims}

    arguments = graph.arguments({tensor.name: tensor_of(tensor) for tensor in graph.inputs})
    shapes = graph.arguments({tensor.name: axes(tensor) for tensor in graph.inputs})
    if graph.caches:
        arguments["caches"] = [tensor_of(tensor) for tensor in graph.caches]
        shapes["caches"] = [axes(tensor) for tensor in graph.caches]
    return write_graph(
        graph.module, arguments, shapes, graph.all_inputs, graph.all_outputs, folder, file
    )


def _dim(size: str, free: Mapping[str, Any]) -> Any:
    """A size of a table as the exporter takes it: `4*h` is 4 times the dimension h."""
    name = size.rpartition("*")[2]
    factor = axis_size(size, {name: 1})
    return free[name] if factor == 1 else factor * free[name]


def write_graph(
    module: nn.Module,
    arguments: Mapping[str, Any],
    free: Mapping[str, Any],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    folder: Path,
    file: str,
) -> GraphSpec:
    """Export `module` on example `arguments`, and write it to `folder`/`file`.

    `free` says for each argument which axes are free, as `torch.export` takes it. `inputs` and
    `outputs` are all tensors in the order of the flattened arguments and results. Raises
    `FixedSizeError` if the module does not leave them free.
    """
    _keep_signatures()
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (),
            kwargs=dict(arguments),
            dynamo=True,
            opset_version=opset_of(module),
            input_names=[tensor.name for tensor in inputs],
            output_names=[tensor.name for tensor in outputs],
            dynamic_shapes=dict(free),
            verbose=False,
        )
    assert program is not None  # noqa: S101 - the dynamo exporter always returns one
    proto = program.model_proto
    for values, table in ((proto.graph.input, inputs), (proto.graph.output, outputs)):
        for value, tensor in zip(values, table, strict=True):
            _describe(value, tensor)
    # The exporter's own notes, whose order changes from process to process.
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for node in proto.graph.node:
        # Stack traces of the exporting machine: its paths, and four fifths of the file.
        del node.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString(deterministic=True)
    return write_file(content, inputs, outputs, folder, file)


def write_file(
    content: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    folder: Path,
    file: str,
) -> GraphSpec:
    """Write the bytes of a graph to `folder`/`file`; returns its entry of the bundle's table."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return GraphSpec(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def draws(content: bytes) -> bool:
    """Whether a graph draws random numbers: no two runs of it need give the same."""
    nodes = onnx.load_from_string(content).graph.node
    return any(node.op_type.startswith("Random") or node.op_type in _DRAWS for node in nodes)


def opset_of(module: nn.Module) -> int:
    """The opset that a module is exported in."""
    state = module.state_dict().values()
    return BF16_OPSET if any(value.dtype == torch.bfloat16 for value in state) else OPSET


def _describe(value: onnx.ValueInfoProto, tensor: TensorSpec) -> None:
    """Compare a graph's input or output with its table, whose names of sizes it then takes.

    The exporter names derived sizes s39 or so, another number each time. Where a module made a size
    of its example a constant, as a loop over an LSTM's steps does, it writes that number: a free
    name over it would promise what the graph cannot do. Raises `FixedSizeError`.
    """
    kind = value.type.tensor_type
    same = value.name == tensor.name and _TYPES.get(kind.elem_type) == tensor.dtype
    if not same or len(kind.shape.dim) != len(tensor.shape):
        raise RuntimeError(f"the exporter made {value}, which is not {tensor}")
    for dim, size in zip(kind.shape.dim, tensor.shape, strict=True):
        if isinstance(size, str):
            if dim.HasField("dim_value"):
                raise FixedSizeError(
                    f"the size {size!r} of {tensor.name} has to be free, and the module fixes it "
                    f"to the {dim.dim_value} of the example it is exported with",
                    size,
                )
            dim.dim_param = size
        elif dim.dim_value != size:
            raise RuntimeError(f"the exporter made {value}, which is not {tensor}")


def _keep_signatures() -> None:
    """Let onnxscript parse the source of its 500 operators once, not anew for each graph.

    That takes half a second, a quarter of the export of a small graph. The class is onnxscript's
    own business: where it is another, nothing is done.
    """
    traced = getattr(onnxscript.values, "TracedOnnxFunction", object)
    parse = vars(traced).get("function_ir")
    if isinstance(parse, property) and parse.fget is not None:
        kept = functools.cached_property(parse.fget)
        kept.__set_name__(traced, "function_ir")
        setattr(traced, "function_ir", kept)  # noqa: B010 - for the type checker


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress lines and its own deprecations mean nothing to a user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
