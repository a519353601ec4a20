"""WaveNet (arXiv 1609.03499), the full form: all steps of a sequence in one pass, for training.

Each layer is `tanh(a) · sigmoid(b)` of what it sees at a step and one dilation before, and adds a
product of that to its stream; the gates of all layers together give the logits (section 2.4).
Conditioning is a bias a layer (section 2.5), which may change from frame to frame of `hop` steps.

Shapes: N sequences, T steps, F frames, p channels, L layers, K classes, which also stands for
"nothing before". `wavenet_step.py` holds the same function a step at a time.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.audio import WaveNetStack


class WaveNetLayer(nn.Module):
    """One dilated gated convolution of window 2, as products: channels last."""

    def __init__(self, channels: int, dilation: int, *, residual: bool) -> None:
        super().__init__()
        self.dilation = dilation
        # Windows lie flat: the past step first, then the present one.
        self.gates = nn.Linear(2 * channels, 2 * channels)
        # The last layer's stream is read by none.
        self.residual = nn.Linear(channels, channels, bias=False) if residual else None

    def forward(self, h: Tensor, bias: Tensor | None, hop: int) -> Tensor:
        """The gated sum (N, T, p) of a stream h (N, T, p), with bias (N, F, 2p), T = F·hop."""
        past = F.pad(h, (0, 0, self.dilation, 0))[:, : h.shape[1]]
        a = self.gates(torch.cat([past, h], 2))
        if bias is not None:
            n, frames, width = bias.shape
            a = (a.view(n, frames, hop, width) + bias[:, :, None]).view(n, -1, width)
        return gate(a)


class WaveNet(nn.Module):
    """A stack of such layers over one of K classes a step."""

    def __init__(self, config: WaveNetStack, classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        p, last = config.channels, len(config.dilations) - 1
        # One more: the class K, nothing before.
        self.embedding = nn.Embedding(classes + 1, p)
        self.layers = nn.ModuleList(
            WaveNetLayer(p, dilation, residual=index < last)
            for index, dilation in enumerate(config.dilations)
        )
        self.skip = nn.Linear(len(self.layers) * p, config.head)
        self.out = nn.Linear(config.head, classes)
        self.dropout = nn.Dropout(dropout)

    def wavenet_layers(self) -> list[WaveNetLayer]:
        """The layers, from the first."""
        return [layer for layer in self.layers if isinstance(layer, WaveNetLayer)]

    def forward(self, previous: Tensor, bias: Tensor | None = None, hop: int = 1) -> Tensor:
        """Logits (N, T, K) of each step from the classes before it, `previous` int (N, T).

        `bias` (N, F, L·2p) with T = F·hop, or None for none. Step t sees `previous` up to t, so
        `previous` is the sequence moved on by one, with K in front.
        """
        h = self.dropout(self.embedding(previous))
        layers = self.wavenet_layers()
        biases = [None] * len(layers) if bias is None else bias.chunk(len(layers), 2)
        weights = self.skip.weight.chunk(len(layers), 1)
        skips: Tensor = self.skip.bias
        for layer, own, weight in zip(layers, biases, weights, strict=True):
            gated = layer(h, own, hop)
            skips = skips + F.linear(gated, weight)
            if layer.residual is not None:
                h = h + layer.residual(gated)
        logits: Tensor = self.out(F.relu(skips))
        return logits

    def shift_right(self, classes: Tensor) -> Tensor:
        """`previous` of a whole sequence of classes (N, T): nothing, then all but the last."""
        return F.pad(classes[:, :-1], (1, 0), value=self.classes)


def gate(a: Tensor) -> Tensor:
    """tanh of the first half of the last axis times the sigmoid of the second."""
    x, y = a.chunk(2, -1)
    return torch.tanh(x) * torch.sigmoid(y)
