"""PixelCNN's cached form: the vertical stack once a row, the horizontal stack once a position.

The same weights and the same function as `pixelcnn.py`; what a full forward pass computes again
for every code is kept here in caches that the caller feeds back. These modules are what is
exported, and what the torch engine runs.

Shapes: N samples, W columns, C codes a position, p channels, L layers, K the codebook's size,
which also stands for "nothing there" as a code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.priors.pixelcnn import PixelCNN, gate


def _bias(convolution: nn.Conv2d) -> Tensor:
    """A convolution's bias as a column, (channels, 1)."""
    assert convolution.bias is not None  # noqa: S101 - for mypy: all of ours have one
    return convolution.bias[:, None]


class RowGraph(nn.Module):
    """From the row above to everything that a row's positions need of what is above them."""

    def __init__(self, prior: PixelCNN) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, above: Tensor, caches: Sequence[Tensor], labels: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """`bias` (W, N, L·2p) and the new caches.

        `above` int32 (N, W, C): the codes of the row above; `labels` int32 (N,).
        """
        v = self.prior.embed(above).permute(0, 2, 1)[:, :, None]
        biases, kept = [], []
        for layer, cache in zip(self.prior.gated_layers(), caches, strict=True):
            window = torch.cat([cache, v], 2)
            kept.append(window[:, :, 1:])
            out = layer.vertical(layer.pad_columns(window))
            bias = layer.link(out)[:, :, 0] + _bias(layer.horizontal)
            if labels is not None:
                out = out + layer.label(layer.vertical_label, labels)
                bias = bias + layer.label(layer.horizontal_label, labels)[..., 0]
            biases.append(bias.permute(2, 0, 1))
            v = gate(out) if layer.first else v + gate(out)
        return torch.cat(biases, 2), kept


class StepGraph(nn.Module):
    """Draws the codes of one position from the code before it, the row's biases and the caches.

    Exported twice: top-k and top-p cost a sort a position, which nobody pays who does not filter.
    """

    def __init__(self, prior: PixelCNN) -> None:
        super().__init__()
        self.prior = prior
        config = prior.config
        for index, layer in enumerate(prior.gated_layers()):
            # (2p, p, 1, columns) to (columns·p, 2p): the window lies flat, the oldest place first.
            weight = layer.horizontal.weight.detach()[:, :, 0].permute(2, 1, 0)
            self.register_buffer(f"weight{index}", weight.reshape(-1, 2 * config.channels).clone())

    def forward(
        self,
        code: Tensor,
        column: Tensor,
        bias: Tensor,
        noise: Tensor,
        temperature: Tensor,
        caches: Sequence[Tensor],
        top_k: Tensor | None = None,
        top_p: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One position of every sample.

        `code` int32 (N, C): the codes at the place to the left; `column` int32 (1,); `bias` of the
        row; `noise` float32 (N, C), uniform in (0, 1); `temperature` float32 (1,), 0 for the most
        likely code; `top_k` int32 (1,) and `top_p` float32 (1,), or None for both. Gives the codes
        int32 (N, C), their logits (N, C, K) and the new caches.
        """
        p = self.prior.config.channels
        h = self.prior.embed(code)
        biases = torch.split(bias.index_select(0, column)[0], 2 * p, 1)
        kept, skips = [], []
        for index, layer in enumerate(self.prior.gated_layers()):
            window = torch.cat([caches[index], h], 1)
            # A cache of one place is replaced whole: no need to cut it out of the window.
            kept.append(h if layer.columns == 2 else window[:, p:])
            gated = gate(torch.addmm(biases[index], window, self.get_buffer(f"weight{index}")))
            skips.append(gated)
            if layer.residual is not None:
                weight = layer.residual.weight[:, :, 0, 0].T
                h = gated @ weight if layer.first else torch.addmm(h, gated, weight)
        features = self._mix(torch.cat(skips, 1))
        codes: list[Tensor] = []
        logits = []
        for index in range(self.prior.config.num_codebooks):
            before = torch.stack(codes, 1) if codes else code
            logits.append(self.prior.head(index, features, before))
            codes.append(draw(logits[-1], noise[:, index], temperature, top_k, top_p))
        return torch.stack(codes, 1).to(torch.int32), torch.stack(logits, 1), kept

    def _mix(self, skips: Tensor) -> Tensor:
        skip, mix = self.prior.skip, self.prior.mix
        out = F.relu(F.linear(skips, skip.weight[:, :, 0, 0], skip.bias))
        return F.linear(out, mix.weight[:, :, 0, 0], mix.bias)


def draw(
    logits: Tensor,
    noise: Tensor,
    temperature: Tensor,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
) -> Tensor:
    """A code int64 (N,) of each distribution (N, K), by inverting its cumulative sum at `noise`.

    Temperature 0 gives the most likely code. Else only the `top_k` most likely are drawn, and of
    these the fewest that hold `top_p` of the probability; of equally likely codes the first ones
    are kept. The order of the codes stays that of the codebook, so a filter that keeps everything
    changes no sample.
    """
    cold = temperature < 1e-6  # below, the division would overflow
    p = torch.softmax(logits / torch.where(cold, torch.ones_like(temperature), temperature), -1)
    if top_k is not None and top_p is not None:
        p = _filter(p, top_k, top_p)
    cumulative = torch.cumsum(p, -1)
    below = cumulative <= noise[:, None] * cumulative[:, -1:]
    drawn = below.sum(-1).clamp_max(logits.shape[-1] - 1)
    return torch.where(cold, logits.argmax(-1), drawn)


def _filter(p: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities (N, K) with those that are not to be drawn set to 0."""
    ranked = torch.topk(p, p.shape[-1], sorted=True).values
    ahead = torch.cumsum(ranked, -1) - ranked
    # Rounded sums pass 1 before the last code: a `top_p` of 1 must not cut there.
    kept = (torch.arange(p.shape[-1], device=p.device) < top_k) & ((ahead < top_p) | (top_p >= 1))
    least = torch.where(kept, ranked, torch.full_like(ranked, 2.0)).amin(-1, keepdim=True)
    above, tied = p > least, p == least
    room = kept.sum(-1, keepdim=True) - above.sum(-1, keepdim=True)
    chosen = above | (tied & (torch.cumsum(tied, -1) <= room))
    return torch.where(chosen, p, torch.zeros_like(p))
