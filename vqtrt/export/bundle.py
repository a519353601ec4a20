"""From a run to its bundle: every graph of the tokenizer and of its priors, and `bundle.json`."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

import vqtrt
from vqtrt.bundle import (
    INFO,
    Bundle,
    BundleInfo,
    GraphSpec,
    Source,
    TensorSpec,
    file_sha256,
)
from vqtrt.data.preprocessing import Preprocessing
from vqtrt.engines.plans import carry_plans
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.export.onnx import OPSET, write_graph
from vqtrt.models.facts import model_facts
from vqtrt.models.graphs import DecoderGraph, EncoderGraph
from vqtrt.models.vqvae import VQVAE
from vqtrt.precision import PRECISIONS, graph_key, torch_dtype
from vqtrt.priors.graphs import GRAPHS, PriorGraph, pixelcnn_graph
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.training.prior_run import trained_priors
from vqtrt.training.run import Run

_MAX_SIDE = 16384


def export_run(run: Run, out: Path, precisions: Sequence[str] = ("fp32",)) -> Bundle:
    """Write the bundle of a run into the folder `out`; a bundle that stood there is replaced.

    The fp32 graphs are always written; `precisions` (of `PRECISIONS`) says which others are, too.
    TensorRT engines of graphs that are as before stay.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise VqtrtError(f"no precision {min(unknown)!r}: choose of {', '.join(PRECISIONS)}")
    check_place(out)
    size = run.config.data.preprocessing
    priors = trained_priors(run.path)
    with replacing(out) as folder:
        graphs: dict[str, GraphSpec] = {}
        for precision in PRECISIONS:
            if precision != "fp32" and precision not in precisions:
                continue
            graphs |= image_graphs(run.load_model(), size, folder, precision)
            for name, prior in priors.items():
                width = prior.config.codes.width
                graphs |= prior_graphs(prior.load(), name, width, folder, precision)
        info = BundleInfo(
            vqtrt_version=vqtrt.__version__,
            model=model_facts(run.config.model),
            preprocessing=size,
            graphs=graphs,
            priors={name: prior.facts() for name, prior in priors.items()},
            opset=OPSET,
            source=Source(
                run=str(run.path),
                weights_sha256=file_sha256(run.weights),
                recipe=run.config.recipe,
            ),
        )
        Bundle.write_info(folder, info)
        carry_plans(out, folder, graphs)
    return Bundle.open(out)


def image_graphs(
    model: VQVAE, size: Preprocessing, folder: Path, precision: str = "fp32"
) -> dict[str, GraphSpec]:
    """Write `encoder.onnx` and `decoder.onnx`; batch, height and width are free."""
    dtype = torch_dtype(precision)
    encoder, decoder = (graph_key(precision, name) for name in ("encoder", "decoder"))
    stride, count = model.config.stride, model.config.quantizer.num_codebooks
    books = () if count == 1 else (count,)
    sides = ("h", "w") if stride == 1 else (f"{stride}*h", f"{stride}*w")
    images = TensorSpec(name="images", dtype="uint8", shape=("batch", *sides, 3))
    codes = TensorSpec(name="codes", dtype="int32", shape=("batch", "h", "w", *books))
    h, w = Dim("h", min=1, max=_MAX_SIDE), Dim("w", min=1, max=_MAX_SIDE)
    batch: dict[int, Any] = {0: Dim("batch", min=1)}
    pixels = torch.zeros(2, size.height, size.width, 3, dtype=torch.uint8)
    grid = torch.zeros(2, size.height // stride, size.width // stride, *books, dtype=torch.int32)
    return {
        encoder: write_graph(
            EncoderGraph(model, dtype),
            {"images": pixels},
            {"images": batch | {1: stride * h, 2: stride * w}},
            [images],
            [codes],
            folder,
            f"{encoder}.onnx",
        ),
        decoder: write_graph(
            DecoderGraph(model, dtype),
            {"codes": grid},
            {"codes": batch | {1: h, 2: w}},
            [codes],
            [images],
            folder,
            f"{decoder}.onnx",
        ),
    }


def prior_graphs(
    prior: PixelCNN, name: str, width: int, folder: Path, precision: str = "fp32"
) -> dict[str, GraphSpec]:
    """Write a prior's graphs below `priors/NAME/`; batch, width and height are free."""
    written = {}
    for part in GRAPHS:
        key = graph_key(precision, f"priors/{name}/{part}")
        graph = pixelcnn_graph(prior, part, torch_dtype(precision))
        written[key] = _write_prior_graph(graph, width, folder, f"{key}.onnx")
    return written


def _write_prior_graph(graph: PriorGraph, width: int, folder: Path, file: str) -> GraphSpec:
    # Sizes that differ from all others and from 1: the exporter takes equal ones for one.
    sizes = {"batch": 3, "width": max(width, 5), "height": max(width, 5) + 2}
    free = {name: Dim(name, min=1, max=_MAX_SIDE) for name in sizes}

    def example(tensor: TensorSpec) -> torch.Tensor:
        return torch.zeros(tensor.resolve(sizes), dtype=getattr(torch, tensor.dtype))

    def axes(tensor: TensorSpec) -> dict[int, Any]:
        return {i: free[size] for i, size in enumerate(tensor.shape) if isinstance(size, str)}

    arguments: dict[str, Any] = {tensor.name: example(tensor) for tensor in graph.inputs}
    shapes: dict[str, Any] = {tensor.name: axes(tensor) for tensor in graph.inputs}
    arguments["caches"] = [example(tensor) for tensor in graph.caches]
    shapes["caches"] = [axes(tensor) for tensor in graph.caches]
    inputs, outputs = [*graph.inputs, *graph.caches], [*graph.outputs, *graph.kept()]
    return write_graph(graph.module, arguments, shapes, inputs, outputs, folder, file)


def check_place(out: Path) -> None:
    """Raise `VqtrtError` where no bundle can be written: a file, or a folder with other things."""
    if out.exists() and not out.is_dir():
        raise VqtrtError(f"{out} is a file: name a folder with --out")
    if out.exists() and any(out.iterdir()) and not (out / INFO).is_file():
        raise VqtrtError(f"{out} is not empty and no bundle: name another folder with --out")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
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
