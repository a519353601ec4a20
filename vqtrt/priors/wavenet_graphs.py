"""The graphs of a WaveNet prior by name, with the table of their inputs and outputs.

As `graphs.py` for PixelCNN, without its row graph: a step depends on the steps before it alone.

`step`           draws the next code of every clip
`step_filtered`  the same with top-k and top-p
`logits`         the full forward pass, for scoring
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vqtrt.bundle import TensorSpec
from vqtrt.engines.base import CACHE
from vqtrt.models.wavenet_step import WaveNetStep
from vqtrt.precision import in_dtype
from vqtrt.priors.graphs import PriorGraph
from vqtrt.priors.wavenet import WaveNetPrior

WAVENET_GRAPHS = ("step", "step_filtered", "logits")


class PriorStep(nn.Module):
    """Draws one code of every clip; what a speaker adds is looked up inside."""

    def __init__(self, prior: WaveNetPrior, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.step = WaveNetStep(prior.wavenet, 1, dtype)
        self.speakers = prior.speakers

    def forward(
        self,
        previous: Tensor,
        noise: Tensor,
        temperature: Tensor,
        caches: Sequence[Tensor],
        speakers: Tensor | None = None,
        top_k: Tensor | None = None,
        top_p: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Codes int32 (N, 1), their logits (N, K), and the new caches; as `WaveNetStep`.

        `previous` int32 (N,), K before the first; `speakers` int32 (N,), where there are any.
        """
        bias = None if self.speakers is None else self.speakers(speakers)
        codes, logits, kept = self.step(previous, noise, temperature, caches, bias, top_k, top_p)
        return codes, logits, kept


class LogitsGraph(nn.Module):
    """`codes` int32 (N, t), and `speakers` int32 (N,), to logits (N, t, K)."""

    def __init__(self, prior: WaveNetPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, speakers: Tensor | None = None, caches: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The full forward pass; it has no caches."""
        return self.prior(codes, speakers), []


def wavenet_graph(prior: WaveNetPrior, name: str, dtype: torch.dtype | None = None) -> PriorGraph:
    """One of `WAVENET_GRAPHS`. Free sizes are `batch` and, for `logits`, `t`.

    `dtype` is that of embeddings, products and gates (default: the prior's own); inputs and outputs
    are the same in any.
    """
    k = prior.config.codebook_size
    speakers = (_int("speakers", "batch"),) if prior.config.num_classes else ()
    if name == "logits":
        module = LogitsGraph(in_dtype(prior, dtype) if dtype else prior)
        inputs = (_int("codes", "batch", "t"), *speakers)
        return PriorGraph(module, inputs, (), (_float("logits", "batch", "t", k),))
    if name not in WAVENET_GRAPHS:
        raise ValueError(f"a WaveNet prior has no graph {name!r}")
    filters = (_int("top_k", 1), _float("top_p", 1)) if name == "step_filtered" else ()
    step = PriorStep(prior, dtype)
    caches = tuple(
        TensorSpec(
            name=f"{CACHE}{index}",
            dtype="float32",
            shape=(steps, "batch", prior.config.channels),
            delay=delay,
        )
        for index, (steps, delay) in enumerate(step.step.caches())
    )
    inputs = (
        _int("previous", "batch"),
        *speakers,
        _float("noise", "batch", 1),
        _float("temperature", 1),
        *filters,
    )
    outputs = (_int("codes", "batch", 1), _float("logits", "batch", k))
    return PriorGraph(step, inputs, caches, outputs)


def _int(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="int32", shape=shape)


def _float(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)
