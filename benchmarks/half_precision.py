"""Half precision on real images, and TensorRT for RTX plans of every recipe. Needs no GPU.

python benchmarks/half_precision.py cifar10 runs/cifar10-small > benchmarks/results/DATE-tensorrt.md

`cifar10` is a folder with `test/CLASS/*`; the run was exported with --precision fp16.
"""

import sys
import tempfile
from pathlib import Path

import torch
from report import heading, table, vqtrt

from vqtrt.config.images import RECIPES, CodesConfig, Config, load_config, load_prior_config
from vqtrt.config.settings import recipe_names
from vqtrt.export.bundle import image_graphs, prior_graphs
from vqtrt.export.graph_writer import GraphWriter
from vqtrt.export.tensorrt.build import build_engines, engine_options
from vqtrt.formats.bundle import Bundle, BundleInfo, Source
from vqtrt.formats.precision import PRECISIONS
from vqtrt.models.image import VQVAE
from vqtrt.models.info import model_info
from vqtrt.priors.pixelcnn import PixelCNN


def main() -> None:
    data, run = sys.argv[1:]
    heading("Half precision and TensorRT for RTX")
    figures = vqtrt(
        *("verify", run, f"{data}/test", "--engine", "onnxruntime"),
        *("--precision", "fp16", "--limit", "10000"),
    )
    table(figures, tuple(name for name in figures if name not in ("priors", "bundle")))
    for prior in figures["priors"].values():
        table(prior, tuple(prior))
    print("Plans, random weights, batches of 1 to 64, portable over GPUs:\n")
    print("| recipe | graph | ONNX fp32, MB | fp32, MB | fp16, MB | bf16, MB | fp16 / fp32 |")
    print("|---|---|---|---|---|---|---|")
    for recipe in recipe_names(RECIPES):
        _plans(recipe, load_config(recipe), prior=False)
    for recipe in recipe_names(RECIPES / "priors"):
        _plans(recipe, load_config("cifar10-small"), prior=True)


def _plans(recipe: str, config: Config, *, prior: bool) -> None:
    """A line a graph, and one for all graphs together, which are loaded together."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = GraphWriter(folder)
        for precision in PRECISIONS:
            if prior:
                _prior_graphs(recipe, writer, precision)
            else:
                model, size = VQVAE(config.model), config.data.preprocessing
                image_graphs(model, size, writer, precision)
        graphs = writer.graphs
        info = BundleInfo(
            vqtrt_version="0",
            model=model_info(config.model),
            preprocessing=config.data.preprocessing,
            graphs=graphs,
            opset=20,
            source=Source(run="none", weights_sha256="0" * 64, recipe=recipe),
        )
        bundle = Bundle(folder, info)
        built = build_engines(bundle, engine_options("tensorrt-rtx"), PRECISIONS)
        names = [graph for graph in graphs if not graph.startswith(("fp16/", "bf16/"))]
        rows = {
            graph: [
                (folder / graphs[graph].file).stat().st_size,
                *(built[key]["bytes"] for key in (graph, f"fp16/{graph}", f"bf16/{graph}")),
            ]
            for graph in names
        }
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for graph, sizes in rows.items():
        cells = " | ".join(f"{size / 1e6:.2f}" for size in sizes)
        label = graph.rpartition("/")[2]
        print(f"| {recipe} | {label} | {cells} | {sizes[2] / sizes[1]:.3f} |", flush=True)


def _prior_graphs(recipe: str, writer: GraphWriter, precision: str) -> None:
    codes = CodesConfig()
    facts = {"codebook_size": 512, "num_codebooks": 1, "num_classes": 10}
    config = load_prior_config(recipe).prior.model_copy(update=facts)
    prior = PixelCNN(config.fitted(codes.height, codes.width))
    prior_graphs(prior, recipe, codes.width, writer, precision)


if __name__ == "__main__":
    main()
