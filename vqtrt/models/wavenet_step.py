"""WaveNet's cached form: a few steps a run, each layer with O(1) work a step (Fast WaveNet).

The same weights and the same function as `wavenet.py` (arXiv 1611.09482 names the idea). A layer
of dilation d needs its stream d steps before. One run draws `unroll` steps u: where d is a
multiple of u, that is a whole block of an earlier run, which comes back as a cache with a delay of
d / u runs, and its product is taken for all steps at once; where d is smaller, the last d steps
are kept. So nothing is moved but what is new, however long the dilations.

The steps of a cache lie side by side, (N, steps·p), so that one is cut out and put in without a
change of shape: a step is some hundred small operations, and each more is felt.

Shapes: N sequences, p channels, L layers, K classes, which also stands for "nothing before".
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.formats.bundle import TensorSpec
from vqtrt.formats.caches import CACHE
from vqtrt.models.precision import in_dtype
from vqtrt.models.sample import draw
from vqtrt.models.wavenet import WaveNet, gate


class WaveNetStep(nn.Module):
    """Draws the next `unroll` classes of every sequence.

    With a `dtype` of half precision embeddings, products and gates are in half; what goes in and
    comes out, softmax and draw stay in the WaveNet's own.
    """

    def __init__(self, wavenet: WaveNet, unroll: int = 1, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.outer = next(wavenet.parameters()).dtype
        self.dtype = dtype or self.outer
        self.unroll = unroll
        self.wavenet = in_dtype(wavenet, self.dtype)
        p = wavenet.config.channels
        layers = self.wavenet.wavenet_layers()
        self.register_buffer("biases", torch.cat([layer.gates.bias.detach() for layer in layers]))
        for index, layer in enumerate(layers):
            # Transposed once: what is multiplied from the right at every step.
            weight = layer.gates.weight.detach().T
            self.register_buffer(f"past{index}", weight[:p].clone())
            self.register_buffer(f"now{index}", weight[p:].clone())
            if layer.residual is not None:
                self.register_buffer(f"residual{index}", layer.residual.weight.detach().T.clone())

    def caches(self) -> tuple[TensorSpec, ...]:
        """What each layer keeps of its stream."""
        settings, u = self.wavenet.config, self.unroll
        return tuple(
            TensorSpec(
                name=f"{CACHE}{index}",
                dtype="float32",
                shape=("batch", min(dilation, u) * settings.channels),
                delay=max(1, dilation // u),
            )
            for index, dilation in enumerate(settings.dilations)
        )

    def forward(
        self,
        previous: Tensor,
        noise: Tensor,
        sampling: Mapping[str, Tensor],
        caches: Sequence[Tensor],
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The next classes int32 (N, u), the logits of the last (N, K), and the new caches.

        `previous` int32 (N,): the class before; `noise` (N, u), uniform in (0, 1); `sampling`: the
        parameters of `draw`, (1,) each; `bias` (N, L·2p), the same for all u steps, or None.
        """
        layers, p = self.wavenet.wavenet_layers(), self.wavenet.config.channels
        summed = self.get_buffer("biases")
        if bias is not None:
            summed = summed + bias.to(self.dtype)
        biases = torch.split(summed, 2 * p, -1)
        old = [cache.to(self.dtype) for cache in caches]
        pasts = [self._past(index, old[index], biases[index]) for index in range(len(layers))]
        # What a layer of a small dilation sees at first; then what this run adds.
        streams = [
            [] if past else list(torch.split(cache, p, 1))
            for cache, past in zip(old, pasts, strict=True)
        ]
        drawn: list[Tensor] = []
        logits = noise
        for step in range(self.unroll):
            h = self.wavenet.embedding(previous)
            gates = []
            for index in range(len(layers)):
                streams[index].append(h)
                past = pasts[index]
                if past:
                    before = past[step]
                else:
                    weight = self.get_buffer(f"past{index}")
                    before = torch.addmm(biases[index], streams[index][step], weight)
                gated = gate(torch.addmm(before, h, self.get_buffer(f"now{index}")))
                gates.append(gated)
                if layers[index].residual is not None:
                    h = torch.addmm(h, gated, self.get_buffer(f"residual{index}"))
            features = F.relu(self.wavenet.skip(torch.cat(gates, 1)))
            logits = self.wavenet.out(features).to(self.outer)
            previous = draw(logits, noise[:, step], **sampling).to(torch.int32)
            drawn.append(previous)
        kept = [
            torch.cat(stream[-(cache.shape[1] // p) :], 1).to(self.outer)
            for stream, cache in zip(streams, old, strict=True)
        ]
        return torch.stack(drawn, 1), logits, kept

    def _past(self, index: int, cache: Tensor, bias: Tensor) -> list[Tensor]:
        """What the steps of this run see of a layer's past, where all of it is known."""
        weight, u = self.get_buffer(f"past{index}"), self.unroll
        p, width = weight.shape
        if cache.shape[1] < u * p:
            return []
        if u == 1:
            return [torch.addmm(bias, cache, weight)]
        seen = cache.view(-1, u, p) @ weight + bias.view(-1, 1, width)
        return list(torch.split(seen.view(-1, u * width), width, 1))
