"""The graphs of a WaveNet prior as ONNX files of a bundle."""

from vqtrt.export.graph_writer import GraphWriter
from vqtrt.formats.precision import graph_key
from vqtrt.models.precision import torch_dtype
from vqtrt.priors.wavenet import WaveNetPrior
from vqtrt.priors.wavenet_graphs import WAVENET_GRAPHS, wavenet_graph


def wavenet_prior_graphs(
    prior: WaveNetPrior, name: str, writer: GraphWriter, precision: str = "fp32"
) -> None:
    """Write a prior's graphs below `priors/NAME/`; batch and length are free."""
    for part in WAVENET_GRAPHS:
        graph = wavenet_graph(prior, part, torch_dtype(precision))
        writer.write(graph_key(precision, f"priors/{name}/{part}"), graph, {"batch": 3, "t": 7})
