import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import speech_runs
from changed_graphs import change_graph

from vqtrt.config.location import ModelLocation, find_model
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.export.run import verify_bundle
from vqtrt.export.verify_sizes import _sizes, verify_sizes


def check(model: ModelLocation) -> None:
    assert model.run is not None
    engine = open_engine(model, EngineOptions("onnxruntime", threads=1))
    verify_sizes(model.open_bundle(), engine, TorchEngine(model.run, device="cpu"))


def test_graphs_of_images_and_of_their_prior(tiny_prior: Path) -> None:
    check(find_model(tiny_prior))


@pytest.mark.parametrize("kind", ["conv", "wavenet"])
def test_graphs_of_speech(kind: str) -> None:
    check(speech_runs.exported(kind))


def test_shorter_and_twice_as_long_in_three_batches(tiny_prior: Path) -> None:
    bundle = find_model(tiny_prior).open_bundle()
    sizes = _sizes(bundle, "encoder", bundle.info.graphs["encoder"])
    assert [size["batch"] for size in sizes] == [1, 2, 3]
    assert [(size["h"], size["w"]) for size in sizes] == [(2, 2), (2, 8), (8, 2)]


def fix(proto: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """Bring a graph's output to a shape by a constant, as an exporter does that fixed a size."""
    (output,) = proto.graph.output
    for node in proto.graph.node:
        node.output[:] = ["free" if name == output.name else name for name in node.output]
    constant = onnx.numpy_helper.from_array(np.array(shape), "fixed")
    proto.graph.initializer.append(constant)
    proto.graph.node.append(onnx.helper.make_node("Reshape", ["free", "fixed"], [output.name]))


@pytest.mark.parametrize(
    ("kind", "graph", "shape"),
    [
        ("image", "encoder", (-1, 4, 4)),
        ("image", "decoder", (-1, 16, 16, 3)),
        ("conv", "encoder", (-1, 7)),
        ("conv", "encoder", (1, -1)),
        ("conv", "decoder", (2, -1)),
    ],
)
def test_a_graph_that_works_at_one_size_is_told(
    kind: str, graph: str, shape: tuple[int, ...], tiny_run: Path, tmp_path: Path
) -> None:
    if kind == "image":
        ignored = shutil.ignore_patterns("checkpoints", "tensorboard")
        model = find_model(shutil.copytree(tiny_run, tmp_path / "run", ignore=ignored))
    else:
        model = speech_runs.copied(kind, tmp_path)
    assert model.bundle is not None
    change_graph(model.bundle, graph, lambda proto: fix(proto, shape))
    with pytest.raises(VqtrtError, match=rf"the graph '{graph}' does not do what torch does at b"):
        verify_bundle(find_model(model.run))
