"""The graphs of a WaveNet prior as ONNX files of a bundle."""

from pathlib import Path

from vqtrt.bundle import GraphSpec
from vqtrt.export.onnx import write_deployed
from vqtrt.precision import graph_key, torch_dtype
from vqtrt.priors.wavenet import WaveNetPrior
from vqtrt.priors.wavenet_graphs import WAVENET_GRAPHS, wavenet_graph


def wavenet_prior_graphs(
    prior: WaveNetPrior, name: str, folder: Path, precision: str = "fp32"
) -> dict[str, GraphSpec]:
    """Write a prior's graphs below `priors/NAME/`; batch and length are free."""
    written = {}
    for part in WAVENET_GRAPHS:
        key = graph_key(precision, f"priors/{name}/{part}")
        graph = wavenet_graph(prior, part, torch_dtype(precision))
        written[key] = write_deployed(graph, {"batch": 3, "t": 7}, folder, f"{key}.onnx")
    return written
