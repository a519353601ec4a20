"""The graphs of a prior by name, with the table of their inputs and outputs.

One description serves the exporter and the torch engine, so that both mean the same graph.

`row`            what a row's positions need of the rows above; once a row
`step`           draws the codes of one position; once a position
`step_filtered`  the same with top-k and top-p
`logits`         the full forward pass, for scoring
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vqtrt.formats.bundle import TensorSpec
from vqtrt.formats.caches import CACHE
from vqtrt.formats.sampling import sampling_inputs
from vqtrt.models.deployed import DeployedGraph, float32, int32
from vqtrt.models.precision import in_dtype
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.pixelcnn_cached import RowGraph, StepGraph

GRAPHS = ("row", "step", "step_filtered", "logits")


class LogitsGraph(nn.Module):
    """`codes` int32 (N, H, W, C), and `labels` int32 (N,), to logits (N, H, W, C, K)."""

    def __init__(self, prior: PixelCNN) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """The full forward pass."""
        out: Tensor = self.prior(codes, labels)
        return out


def pixelcnn_graph(prior: PixelCNN, name: str, dtype: torch.dtype | None = None) -> DeployedGraph:
    """One of `GRAPHS`. Free sizes are `batch`, `width` and, for `logits`, `height`.

    `dtype` is that of embeddings, products and gates (default: the prior's own); inputs and outputs
    are the same in any.
    """
    config = prior.config
    p, k, c = config.channels, config.codebook_size, config.num_codebooks
    labels = (int32("labels", "batch"),) if config.num_classes else ()
    layers = prior.gated_layers()
    bias = float32("bias", "width", "batch", len(layers) * 2 * p)
    if name == "row":
        rows = [("width", "batch", 2 * p) for layer in layers for _ in range(layer.rows - 1)]
        inputs = (int32("above", "batch", "width", c), *labels)
        return DeployedGraph(RowGraph(prior, dtype), inputs, (bias,), _caches(rows))
    if name == "logits":
        inputs = (int32("codes", "batch", "height", "width", c), *labels)
        logits = float32("logits", "batch", "height", "width", c, k)
        module = LogitsGraph(in_dtype(prior, dtype) if dtype else prior)
        return DeployedGraph(module, inputs, (logits,))
    if name not in GRAPHS:
        raise ValueError(f"a PixelCNN has no graph {name!r}")
    inputs = (
        int32("code", "batch", c),
        int32("column", 1),
        bias,
        float32("noise", "batch", c),
        *sampling_inputs(filters=name == "step_filtered"),
    )
    columns = [("batch", (layer.columns - 1) * p) for layer in layers if layer.columns > 1]
    outputs = (int32("codes", "batch", c), float32("logits", "batch", c, k))
    return DeployedGraph(StepGraph(prior, dtype), inputs, outputs, _caches(columns))


def _caches(shapes: Sequence[tuple[int | str, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(float32(f"{CACHE}{index}", *shape) for index, shape in enumerate(shapes))
