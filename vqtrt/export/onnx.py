"""Torch to ONNX: one file a graph, with the batch and the picture's size left free.

The dynamo exporter, a pinned opset, and the modules of `models/graphs.py`. Every graph is checked
by ONNX's own checker, and its inputs and outputs against the table of docs/architecture.md, before
it is written.
"""

import hashlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.export import Dim

import vqtrt
from vqtrt.bundle import INFO, Bundle, BundleInfo, GraphSpec, Source, TensorSpec, file_sha256
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.models.facts import model_facts
from vqtrt.models.graphs import DecoderGraph, EncoderGraph
from vqtrt.training.run import Run

OPSET = 20
"""The exporter's own in torch 2.11 to 2.13; ONNX Runtime 1.17 and TensorRT 10.13 read it."""

_TYPES: dict[int, str] = {
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.FLOAT: "float32",
}


def export_run(run: Run, out: Path) -> Bundle:
    """Write the bundle of a run into the folder `out`; a bundle that stood there is replaced."""
    if out.exists() and not out.is_dir():
        raise VqtrtError(f"{out} is a file: name a folder with --out")
    if out.exists() and any(out.iterdir()) and not (out / INFO).is_file():
        raise VqtrtError(f"{out} is not empty and no bundle: name another folder with --out")
    model = run.load_model()
    stride, size = run.config.model.stride, run.config.data.preprocessing
    height, width = size.height // stride, size.width // stride
    images = torch.zeros(2, size.height, size.width, 3, dtype=torch.uint8)
    count = run.config.model.quantizer.num_codebooks
    books = () if count == 1 else (count,)
    codes = torch.zeros(2, height, width, *books, dtype=torch.int32)
    with _replacing(out) as folder:
        graphs = {
            "encoder": _export("encoder", EncoderGraph(model), images, stride, folder),
            "decoder": _export("decoder", DecoderGraph(model), codes, 1, folder),
        }
        info = BundleInfo(
            vqtrt_version=vqtrt.__version__,
            model=model_facts(run.config.model),
            preprocessing=size,
            graphs=graphs,
            opset=OPSET,
            source=Source(
                run=str(run.path),
                weights_sha256=file_sha256(run.weights),
                recipe=run.config.recipe,
            ),
        )
        Bundle.write_info(folder, info)
    return Bundle.open(out)


def _export(
    name: str, module: nn.Module, example: torch.Tensor, multiple: int, folder: Path
) -> GraphSpec:
    """Export a graph of one input; axes 0 to 2 are free, 1 and 2 in multiples of `multiple`."""
    source, target = ("images", "codes") if name == "encoder" else ("codes", "images")
    height, width = Dim("h", min=1, max=16384), Dim("w", min=1, max=16384)
    free: dict[int, Any] = {0: Dim("batch", min=1), 1: height, 2: width}
    if multiple > 1:
        free |= {1: multiple * height, 2: multiple * width}
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[source],
            output_names=[target],
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None  # noqa: S101 - the dynamo exporter always returns one
    proto = program.model_proto
    if name == "encoder":
        # The exporter names derived sizes s39 or so, another number each time.
        for axis, size in zip((1, 2), ("h", "w"), strict=True):
            proto.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = size
    del proto.metadata_props[:]
    for node in proto.graph.node:
        # Stack traces of the exporting machine: its paths, and four fifths of the file.
        del node.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString(deterministic=True)
    file = f"{name}.onnx"
    (folder / file).write_bytes(content)
    return GraphSpec(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        inputs=tuple(_spec(value) for value in proto.graph.input),
        outputs=tuple(_spec(value) for value in proto.graph.output),
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec.model_validate(
        {"name": value.name, "dtype": _TYPES.get(tensor.elem_type), "shape": shape}
    )


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


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of `out` when all went well."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise unwritable(out, error) from error
    old = stage.with_suffix(".old")
    try:
        yield stage
        stage.chmod(0o755)
        if out.exists():
            out.rename(old)
        try:
            stage.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
