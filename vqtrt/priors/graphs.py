"""The graphs of a prior by name, with the table of their inputs and outputs.

One description serves the exporter and the torch engine, so that both mean the same graph.

`row`            what a row's positions need of the rows above; once a row
`step`           draws the codes of one position; once a position
`step_filtered`  the same with top-k and top-p
`logits`         the full forward pass, for scoring
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqtrt.bundle import TensorSpec
from vqtrt.engines.base import CACHE, KEPT
from vqtrt.precision import in_dtype
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.pixelcnn_cached import RowGraph, StepGraph

GRAPHS = ("row", "step", "step_filtered", "logits")


@dataclass(frozen=True)
class PriorGraph:
    """A module that takes its inputs by name, and `caches`; it gives its outputs and new caches."""

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    caches: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def kept(self) -> tuple[TensorSpec, ...]:
        """The new caches, as outputs."""
        return tuple(
            tensor.model_copy(update={"name": tensor.name.replace(CACHE, KEPT, 1)})
            for tensor in self.caches
        )

    def call(
        self, inputs: dict[str, Tensor], caches: list[Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Run the module."""
        *made, kept = self.module(**inputs, caches=caches)
        names = (tensor.name for tensor in self.outputs)
        return dict(zip(names, made, strict=True)), kept


class LogitsGraph(nn.Module):
    """`codes` int32 (N, H, W, C), and `labels` int32 (N,), to logits (N, H, W, C, K)."""

    def __init__(self, prior: PixelCNN) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, labels: Tensor | None = None, caches: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The full forward pass; it has no caches."""
        return self.prior(codes, labels), []


def pixelcnn_graph(prior: PixelCNN, name: str, dtype: torch.dtype | None = None) -> PriorGraph:
    """One of `GRAPHS`. Free sizes are `batch`, `width` and, for `logits`, `height`.

    `dtype` is that of embeddings, products and gates (default: the prior's own); inputs and outputs
    are the same in any.
    """
    config = prior.config
    p, k, c = config.channels, config.codebook_size, config.num_codebooks
    labels = (_int("labels", "batch"),) if config.num_classes else ()
    layers = prior.gated_layers()
    bias = _float("bias", "width", "batch", len(layers) * 2 * p)
    if name == "row":
        rows = [("width", "batch", 2 * p) for layer in layers for _ in range(layer.rows - 1)]
        inputs = (_int("above", "batch", "width", c), *labels)
        return PriorGraph(RowGraph(prior, dtype), inputs, _caches(rows), (bias,))
    if name == "logits":
        inputs = (_int("codes", "batch", "height", "width", c), *labels)
        logits = _float("logits", "batch", "height", "width", c, k)
        return PriorGraph(
            LogitsGraph(in_dtype(prior, dtype) if dtype else prior), inputs, (), (logits,)
        )
    if name not in GRAPHS:
        raise ValueError(f"a PixelCNN has no graph {name!r}")
    filters = (_int("top_k", 1), _float("top_p", 1)) if name == "step_filtered" else ()
    inputs = (
        _int("code", "batch", c),
        _int("column", 1),
        bias,
        _float("noise", "batch", c),
        _float("temperature", 1),
        *filters,
    )
    columns = [("batch", (layer.columns - 1) * p) for layer in layers if layer.columns > 1]
    outputs = (_int("codes", "batch", c), _float("logits", "batch", c, k))
    return PriorGraph(StepGraph(prior, dtype), inputs, _caches(columns), outputs)


def _int(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="int32", shape=shape)


def _float(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def _caches(shapes: Sequence[tuple[int | str, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(_float(f"{CACHE}{index}", *shape) for index, shape in enumerate(shapes))
