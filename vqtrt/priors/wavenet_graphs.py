"""The graphs of a WaveNet prior by name, with the table of their inputs and outputs.

As `graphs.py` for PixelCNN, without its row graph: a step depends on the steps before it alone.

`step`           draws the next code of every clip
`step_filtered`  the same with top-k and top-p
`logits`         the full forward pass, for scoring
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vqtrt.formats.sampling import sampling_inputs
from vqtrt.models.deployed import DeployedGraph, float32, int32
from vqtrt.models.precision import in_dtype
from vqtrt.models.wavenet_step import WaveNetStep
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
        sampling: Mapping[str, Tensor],
        caches: Sequence[Tensor],
        speakers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Codes int32 (N, 1), their logits (N, K), and the new caches; as `WaveNetStep`.

        `previous` int32 (N,), K before the first; `speakers` int32 (N,), where there are any.
        """
        bias = None if self.speakers is None else self.speakers(speakers)
        codes, logits, kept = self.step(previous, noise, sampling, caches, bias)
        return codes, logits, kept


class LogitsGraph(nn.Module):
    """`codes` int32 (N, t), and `speakers` int32 (N,), to logits (N, t, K)."""

    def __init__(self, prior: WaveNetPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, codes: Tensor, speakers: Tensor | None = None) -> Tensor:
        """The full forward pass."""
        out: Tensor = self.prior(codes, speakers)
        return out


def wavenet_graph(
    prior: WaveNetPrior, name: str, dtype: torch.dtype | None = None
) -> DeployedGraph:
    """One of `WAVENET_GRAPHS`. Free sizes are `batch` and, for `logits`, `t`.

    `dtype` is that of embeddings, products and gates (default: the prior's own); inputs and outputs
    are the same in any.
    """
    k = prior.config.codebook_size
    speakers = (int32("speakers", "batch"),) if prior.config.num_classes else ()
    if name == "logits":
        module = LogitsGraph(in_dtype(prior, dtype) if dtype else prior)
        inputs = (int32("codes", "batch", "t"), *speakers)
        return DeployedGraph(module, inputs, (float32("logits", "batch", "t", k),))
    if name not in WAVENET_GRAPHS:
        raise ValueError(f"a WaveNet prior has no graph {name!r}")
    step = PriorStep(prior, dtype)
    inputs = (
        int32("previous", "batch"),
        *speakers,
        float32("noise", "batch", 1),
        *sampling_inputs(filters=name == "step_filtered"),
    )
    outputs = (int32("codes", "batch", 1), float32("logits", "batch", k))
    return DeployedGraph(step, inputs, outputs, step.step.caches())
