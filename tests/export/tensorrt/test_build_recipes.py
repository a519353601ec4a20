"""Every recipe of images, and of their priors, compiles at its full size, in every precision."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from vqtrt.config.images import (
    RECIPES,
    CodesConfig,
    Config,
    PriorConfig,
    load_any_config,
    load_config,
    load_prior_config,
)
from vqtrt.config.settings import recipe_names
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import Package
from vqtrt.export.bundle import image_graphs, prior_graphs
from vqtrt.export.graph_writer import GraphWriter
from vqtrt.export.tensorrt.build import Options, build_engines
from vqtrt.formats.bundle import Bundle, BundleInfo, Source
from vqtrt.formats.precision import PRECISIONS
from vqtrt.models.image import VQVAE
from vqtrt.models.info import model_info
from vqtrt.priors.pixelcnn import PixelCNN

pytest.importorskip("tensorrt_rtx", reason='compiling needs pip install "vqtrt[rtx]"')

IMAGE_RECIPES = [
    name
    for name in recipe_names(RECIPES)
    if isinstance(config := load_any_config(name), Config)
    and config.model.likelihood.latents == "codes"  # baselines have no graphs
]
IMAGE_PRIORS = [
    name
    for name in recipe_names(RECIPES / "priors")
    if isinstance(load_prior_config(name), PriorConfig)
]


def by_default(names: list[str], default: str) -> list[Any]:
    """One recipe as it is, the others marked slow."""
    assert default in names
    slow = pytest.mark.slow
    return [name if name == default else pytest.param(name, marks=slow) for name in names]


@pytest.fixture
def package() -> Package:
    return trt_package.load("tensorrt-rtx")


def sized(folder: Path, config, graphs, **more) -> Bundle:
    info = BundleInfo(
        vqtrt_version="0",
        model=model_info(config.model),
        preprocessing=config.data.preprocessing,
        graphs=graphs,
        opset=20,
        source=Source(run="none", weights_sha256="0" * 64, recipe=config.recipe),
        **more,
    )
    return Bundle(folder, info)


def half_the_size(full: dict, half: dict) -> None:
    """An fp16 plan has half of the weights.

    The rest of a plan is the source of the kernels, 0.13 MB each, of which fp16 may need more. It
    is most of a small plan: all plans together have to be small where weights are most of them.
    """
    for name, each in full.items():
        if each["weights"] > 2**20:
            assert half[name]["weights"] <= 0.65 * each["weights"], name
            assert half[name]["bytes"] < each["bytes"], name
    sizes = [sum(each["bytes"] for each in plans.values()) for plans in (full, half)]
    if sum(each["weights"] for each in full.values()) > 0.75 * sizes[0]:
        assert sizes[1] <= 0.65 * sizes[0]


def weights_of(bundle: Bundle, name: str) -> int:
    proto = onnx.load_from_string(bundle.graph_bytes(name))
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


def build_all(bundle: Bundle, package: Package) -> dict[str, dict]:
    """All engines of a bundle by precision, each with the bytes of its graph's weights."""
    made: dict[str, dict] = {}
    for precision in PRECISIONS:
        results = build_engines(bundle, Options(package), [precision])
        prefix = "" if precision == "fp32" else f"{precision}/"
        made[precision] = {
            name.removeprefix(prefix): result | {"weights": weights_of(bundle, name)}
            for name, result in results.items()
        }
    return made


@pytest.mark.parametrize("recipe", by_default(IMAGE_RECIPES, "cifar10-small"))
def test_every_recipe_compiles_at_full_size(recipe, package, tmp_path):
    config = load_config(recipe)
    torch.manual_seed(0)
    network, size = VQVAE(config.model), config.data.preprocessing
    writer = GraphWriter(tmp_path)
    for precision in PRECISIONS:
        image_graphs(network, size, writer, precision)
    made = build_all(sized(tmp_path, config, writer.graphs), package)
    assert set(made["fp32"]) == {"encoder", "decoder"}
    half_the_size(made["fp32"], made["fp16"])
    if config.model.hidden >= 128:
        assert made["fp32"]["encoder"]["weights"] > 2**20
    if config.model.hidden >= 256:
        assert sum(each["weights"] for each in made["fp32"].values()) > 2**24
    # What a context needs of the GPU at the largest batch, 64: known without one.
    needs = [each["activation_bytes"] for plans in made.values() for each in plans.values()]
    assert all(0 < need < 2**30 for need in needs), needs


@pytest.mark.parametrize("recipe", by_default(IMAGE_PRIORS, "pixelcnn"))
def test_every_recipe_of_a_prior_compiles_at_full_size(recipe, package, tmp_path):
    config = load_config("cifar10-small")
    prior = load_prior_config(recipe).prior
    grid = CodesConfig()
    changes = {"codebook_size": 512, "num_codebooks": 1, "num_classes": 10}
    torch.manual_seed(0)
    network = PixelCNN(prior.model_copy(update=changes).fitted(grid.height, grid.width))
    writer = GraphWriter(tmp_path)
    for precision in PRECISIONS:
        prior_graphs(network, "prior", grid.width, writer, precision)
    made = build_all(sized(tmp_path, config, writer.graphs), package)
    assert set(made["fp32"]) == {
        f"priors/prior/{part}" for part in ("row", "step", "step_filtered", "logits")
    }
    half_the_size(made["fp32"], made["fp16"])
