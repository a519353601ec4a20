"""From a run to its bundle: every graph of the tokenizer and of its priors, and `bundle.json`."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import vqtrt
from vqtrt.bundle import INFO, Bundle, BundleInfo, GraphSpec, Source, file_sha256
from vqtrt.data.preprocessing import Preprocessing
from vqtrt.engines.plans import carry_plans
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.export.onnx import OPSET, write_deployed
from vqtrt.models.facts import model_facts
from vqtrt.models.graphs import image_graph
from vqtrt.models.vqvae import VQVAE
from vqtrt.precision import PRECISIONS, graph_key, torch_dtype
from vqtrt.priors.graphs import GRAPHS, pixelcnn_graph
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.training.prior_run import trained_priors
from vqtrt.training.run import Run


def export_run(run: Run, out: Path, precisions: Sequence[str] = ("fp32",)) -> Bundle:
    """Write the bundle of a run into the folder `out`; a bundle that stood there is replaced.

    The fp32 graphs are always written; `precisions` (of `PRECISIONS`) says which others are, too.
    TensorRT engines of graphs that are as before stay.
    """
    size = run.config.data.preprocessing
    priors = trained_priors(run.path)

    def write(folder: Path, precision: str) -> dict[str, GraphSpec]:
        graphs = image_graphs(run.load_model(), size, folder, precision)
        for name, prior in priors.items():
            width = prior.config.codes.width
            graphs |= prior_graphs(prior.load(), name, width, folder, precision)
        return graphs

    def describe(graphs: dict[str, GraphSpec]) -> BundleInfo:
        return BundleInfo(
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

    return write_bundle(out, precisions, write, describe)


def write_bundle(
    out: Path,
    precisions: Sequence[str],
    write: Callable[[Path, str], dict[str, GraphSpec]],
    describe: Callable[[dict[str, GraphSpec]], BundleInfo],
) -> Bundle:
    """Write a bundle into the folder `out`; one that stood there is replaced, if all goes well.

    `write` writes the graphs of a precision into a folder; `describe` tells of all of them.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise VqtrtError(f"no precision {min(unknown)!r}: choose of {', '.join(PRECISIONS)}")
    check_place(out)
    with replacing(out) as folder:
        graphs: dict[str, GraphSpec] = {}
        for precision in PRECISIONS:
            if precision == "fp32" or precision in precisions:
                graphs |= write(folder, precision)
        Bundle.write_info(folder, describe(graphs))
        carry_plans(out, folder, graphs)
    return Bundle.open(out)


def image_graphs(
    model: VQVAE, size: Preprocessing, folder: Path, precision: str = "fp32"
) -> dict[str, GraphSpec]:
    """Write `encoder.onnx` and `decoder.onnx`; batch, height and width are free."""
    stride = model.config.stride
    example = {"batch": 2, "h": size.height // stride, "w": size.width // stride}
    written = {}
    for name in ("encoder", "decoder"):
        key = graph_key(precision, name)
        graph = image_graph(model, name, torch_dtype(precision))
        written[key] = write_deployed(graph, example, folder, f"{key}.onnx")
    return written


def prior_graphs(
    prior: PixelCNN, name: str, width: int, folder: Path, precision: str = "fp32"
) -> dict[str, GraphSpec]:
    """Write a prior's graphs below `priors/NAME/`; batch, width and height are free."""
    example = {"batch": 3, "width": max(width, 5), "height": max(width, 5) + 2}
    written = {}
    for part in GRAPHS:
        key = graph_key(precision, f"priors/{name}/{part}")
        graph = pixelcnn_graph(prior, part, torch_dtype(precision))
        written[key] = write_deployed(graph, example, folder, f"{key}.onnx")
    return written


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
