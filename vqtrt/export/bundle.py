"""From a run to its bundle: every graph of the tokenizer and of its priors, and `bundle.json`."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.tensorrt.plans import carry_plans
from vqtrt.errors import VqtrtError
from vqtrt.export.graph_writer import GraphWriter
from vqtrt.export.onnx import OPSET
from vqtrt.formats.bundle import (
    INFO,
    Bundle,
    BundleInfo,
    GraphSpec,
    Source,
    file_sha256,
    only_export,
)
from vqtrt.formats.precision import PRECISIONS, graph_key
from vqtrt.models.image import VQVAE
from vqtrt.models.image_graphs import image_graph
from vqtrt.models.info import model_info
from vqtrt.models.precision import torch_dtype
from vqtrt.models.runs import ImageRun, TrainedRun
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.pixelcnn_graphs import GRAPHS, pixelcnn_graph
from vqtrt.priors.runs import PriorFolder, trained_priors
from vqtrt.system.atomic import check_folder, followed, replacing_folder
from vqtrt.version import __version__


def export_run(
    run: ImageRun,
    out: Path,
    precisions: Sequence[str] = ("fp32",),
    kept: Callable[[str], None] = lambda name: None,
) -> Bundle:
    """Write the bundle of a run into the folder `out`; a bundle that stood there is replaced.

    The fp32 graphs are always written; `precisions` (of `PRECISIONS`) names the others to write.
    Unchanged graphs are copied, and `kept` is called with the name of each. TensorRT engines of
    unchanged graphs stay.
    """
    size = run.config.data.preprocessing
    model, priors = run.load_model(), trained_priors(run.path)

    def write(writer: GraphWriter, precision: str) -> None:
        image_graphs(model, size, writer, precision)
        for name, prior in priors.items():
            prior_graphs(prior.load(), name, prior.config.codes.width, writer, precision)

    def describe(graphs: dict[str, GraphSpec]) -> BundleInfo:
        model = model_info(run.config.model)
        return run_info(run, graphs, priors, model=model, preprocessing=size)

    return write_bundle(out, precisions, write, describe, kept)


def run_info(
    run: TrainedRun[Any],
    graphs: dict[str, GraphSpec],
    priors: Mapping[str, PriorFolder[Any]],
    **model: Any,
) -> BundleInfo:
    """What `bundle.json` says of a run; `model` is what depends on the modality."""
    return BundleInfo(
        vqtrt_version=__version__,
        graphs=graphs,
        priors={name: prior.info() for name, prior in priors.items()},
        opset=OPSET,
        source=Source(
            run=str(run.path), weights_sha256=file_sha256(run.weights), recipe=run.config.recipe
        ),
        **model,
    )


def write_bundle(
    out: Path,
    precisions: Sequence[str],
    write: Callable[[GraphWriter, str], None],
    describe: Callable[[dict[str, GraphSpec]], BundleInfo],
    kept: Callable[[str], None],
) -> Bundle:
    """Write a bundle into the folder `out`; one that stood there is replaced, if all goes well.

    `write` writes the graphs of a precision; `describe` tells of all of them; `kept` as in
    `export_run`.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise VqtrtError(f"no precision {min(unknown)!r}: choose of {', '.join(PRECISIONS)}")
    check_place(out)
    with replacing(out) as folder, within_bounds():
        writer = GraphWriter(folder, _bundle_in(out), kept)
        for precision in PRECISIONS:
            if precision == "fp32" or precision in precisions:
                write(writer, precision)
        Bundle.write_info(folder, describe(writer.graphs))
        carry_plans(out, folder, writer.graphs)
    return Bundle.open(out)


@contextmanager
def within_bounds() -> Iterator[None]:
    """Say plainly that a model is larger than what a bundle is read back as."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise VqtrtError(
            f"this model does not fit a bundle ({where}: {problem['msg']}): train a smaller one"
        ) from error


def _bundle_in(folder: Path) -> Bundle | None:
    """The bundle that stands there; None if there is none, or a damaged one."""
    try:
        return Bundle.open(folder)
    except VqtrtError:
        return None


def image_graphs(
    model: VQVAE, size: Preprocessing, writer: GraphWriter, precision: str = "fp32"
) -> None:
    """Write `encoder.onnx` and `decoder.onnx`; batch, height and width are free."""
    stride = model.config.stride
    example = {"batch": 2, "h": size.height // stride, "w": size.width // stride}
    for name in ("encoder", "decoder"):
        graph = image_graph(model, name, torch_dtype(precision))
        writer.write(graph_key(precision, name), graph, example)


def prior_graphs(
    prior: PixelCNN,
    name: str,
    width: int,
    writer: GraphWriter,
    precision: str = "fp32",
    *,
    skip: Collection[str] = (),
) -> None:
    """Write a prior's graphs, less some, below `priors/NAME/`; batch, width and height are free."""
    example = {"batch": 3, "width": max(width, 5), "height": max(width, 5) + 2}
    for part in GRAPHS:
        if part not in skip:
            graph = pixelcnn_graph(prior, part, torch_dtype(precision))
            writer.write(graph_key(precision, f"priors/{name}/{part}"), graph, example)


def check_place(out: Path) -> None:
    """Raise `VqtrtError` if no bundle can be written, such as a folder with other things."""
    check_folder(out)
    if os.path.ismount(followed(out)):
        raise VqtrtError(f"{out}: is where a disk is mounted; name a folder in it with --out")
    if out.exists() and any(out.iterdir()) and not (out / INFO).is_file():
        raise VqtrtError(f"{out} is not empty and no bundle: name another folder with --out")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of `out` when all went well; no other export writes it."""
    with only_export(out), replacing_folder(out) as stage:
        yield stage
