"""The graphs of a WaveNet prior as ONNX files of a bundle."""

from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from vqtrt.bundle import GraphSpec, TensorSpec
from vqtrt.export.onnx import write_graph
from vqtrt.precision import graph_key, torch_dtype
from vqtrt.priors.wavenet import WaveNetPrior
from vqtrt.priors.wavenet_graphs import WAVENET_GRAPHS, wavenet_graph

_EXAMPLE = {"batch": 3, "t": 7}
_MOST = {"batch": 16384, "t": 1 << 24}


def wavenet_prior_graphs(
    prior: WaveNetPrior, name: str, folder: Path, precision: str = "fp32"
) -> dict[str, GraphSpec]:
    """Write a prior's graphs below `priors/NAME/`; batch and length are free."""
    written = {}
    free = {size: Dim(size, min=1, max=most) for size, most in _MOST.items()}

    def example(tensor: TensorSpec) -> torch.Tensor:
        return torch.zeros(tensor.resolve(_EXAMPLE), dtype=getattr(torch, tensor.dtype))

    def axes(tensor: TensorSpec) -> dict[int, Any]:
        return {i: free[size] for i, size in enumerate(tensor.shape) if isinstance(size, str)}

    for part in WAVENET_GRAPHS:
        key = graph_key(precision, f"priors/{name}/{part}")
        graph = wavenet_graph(prior, part, torch_dtype(precision))
        arguments: dict[str, Any] = {tensor.name: example(tensor) for tensor in graph.inputs}
        shapes: dict[str, Any] = {tensor.name: axes(tensor) for tensor in graph.inputs}
        if graph.caches:
            arguments["caches"] = [example(tensor) for tensor in graph.caches]
            shapes["caches"] = [axes(tensor) for tensor in graph.caches]
        inputs, outputs = [*graph.inputs, *graph.caches], [*graph.outputs, *graph.kept()]
        written[key] = write_graph(
            graph.module, arguments, shapes, inputs, outputs, folder, f"{key}.onnx"
        )
    return written
