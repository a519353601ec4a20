"""What the decoder says of the 256 values of a channel of a pixel, given its features.

Notable: the two heads with a likelihood give log p(x | z) in nats for bytes x, a discrete
probability: nothing is dequantized, and no log 256 has to be added. The channels of a pixel are
independent given z (the authors, by their own account: google-deepmind/sonnet#131).
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from vqtrt.config.images import LikelihoodConfig

LEVELS = 256
_START_LOG_PRECISION = 0.7
"""Of the bell at first: a standard deviation of half the range of -1 to 1."""


def normalize(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [−0.5, 0.5]."""
    return images.to(torch.float32).permute(0, 3, 1, 2) * (1 / 255) - 0.5


class Head(nn.Module):
    """From the decoder's features (N, F, H, W) to images."""

    @abstractmethod
    def image(self, features: Tensor) -> Tensor:
        """The most likely images, or their mean: (N, 3, H, W) about [−0.5, 0.5]."""


class ValueHead(Head):
    """The features are the image; there is no likelihood."""

    def image(self, features: Tensor) -> Tensor:
        """The features (N, 3, H, W)."""
        return features


class LikelihoodHead(Head):
    """A distribution of bytes for each channel of each pixel."""

    @abstractmethod
    def log_probs(self, features: Tensor, levels: Tensor) -> Tensor:
        """log p (N, H, W, 3) in nats of bytes `levels` (N, H, W, 3) uint8."""

    def log_prob(self, features: Tensor, levels: Tensor) -> Tensor:
        """log p (N,) in nats, float64, of the images `levels` (N, H, W, 3) uint8."""
        return self.log_probs(features, levels).double().sum((1, 2, 3))

    def estimated(self, features: Tensor, levels: Tensor, positions: int | None) -> Tensor:
        """`log_prob` from some random positions alone: unbiased, and many times as fast.

        None for all. Only for what is linear in log p: not for the bound of several samples.
        """
        n, _, height, width = features.shape
        if positions is None or positions >= height * width:
            return self.log_prob(features, levels)
        index = torch.rand(n, height * width, device=features.device).topk(positions).indices
        some = features.flatten(2).gather(2, index[:, None].expand(-1, features.shape[1], -1))
        bytes_ = levels.flatten(1, 2).gather(1, index[:, :, None].expand(-1, -1, 3))
        total = self.log_prob(some[..., None], bytes_[:, :, None])
        return total * (height * width / positions)


class CategoricalHead(LikelihoodHead):
    """A softmax over the 256 bytes.

    The logits are W h − ½ e^(2s) (v − m)² with s and m from the features h as well: still any
    softmax, and it begins as a bell that moves, where free logits learn for long that neighboring
    bytes are alike.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Linear(channels, 3 * LEVELS)
        self.bell = nn.Linear(channels, 6)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.bell.bias)
        self.register_buffer("values", torch.linspace(-1, 1, LEVELS), persistent=False)

    values: Tensor
    """(256,): the bytes, from -1 to 1."""

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, H, W, 3, 256) float32."""
        h = features.float().permute(0, 2, 3, 1)
        mean, log_precision = _bell(self.bell, h)
        precision = (2 * log_precision).exp()
        # −½ p (v − m)² without what is the same for all v.
        factors = torch.stack([-0.5 * precision, precision * mean], -1)
        bell = factors @ torch.stack([self.values**2, self.values])
        out: Tensor = self.logits(h).unflatten(-1, (3, LEVELS)) + bell
        return out

    def log_probs(self, features: Tensor, levels: Tensor) -> Tensor:
        """log p (N, H, W, 3) in nats of bytes `levels` (N, H, W, 3) uint8."""
        logits = self(features)
        wanted = logits.gather(-1, levels.long()[..., None])[..., 0]
        out: Tensor = wanted - logits.logsumexp(-1)
        return out

    def image(self, features: Tensor) -> Tensor:
        """The mean of the distribution: it has the smallest squared error."""
        # A sum, no matrix product: `vqtrt export` refuses those in float32 in graphs of fp16.
        mean: Tensor = (self(features).softmax(-1) * self.values).sum(-1)
        return mean.permute(0, 3, 1, 2) / 2


class GaussianHead(LikelihoodHead):
    """A Gaussian with a mean and a scale, its mass collected by the bytes; ends have the tails."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bell = nn.Linear(channels, 6)
        nn.init.zeros_(self.bell.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (N, H, W, 3) on the scale of −1 to 1."""
        h = features.float().permute(0, 2, 3, 1)
        mean, log_precision = _bell(self.bell, h)
        return mean, (-log_precision).exp()

    def log_probs(self, features: Tensor, levels: Tensor) -> Tensor:
        """log p (N, H, W, 3) in nats of bytes `levels` (N, H, W, 3) uint8."""
        mean, scale = self(features)
        half = 1 / (LEVELS - 1)
        center = levels.to(mean.dtype) * (2 * half) - 1
        # By the left side of the bell, where the logarithm of a small mass is exact.
        sign = torch.where(center > mean, -1.0, 1.0)
        middle, step = sign * (center - mean) / scale, half / scale
        upper, lower = torch.special.log_ndtr(middle + step), torch.special.log_ndtr(middle - step)
        inside = upper + torch.log1p(-(lower - upper).clamp_max(-1e-6).exp())
        first = torch.special.log_ndtr((center + half - mean) / scale)
        last = torch.special.log_ndtr((mean - center + half) / scale)
        inside = torch.where(levels == LEVELS - 1, last, inside)
        return torch.where(levels == 0, first, inside)

    def image(self, features: Tensor) -> Tensor:
        """The mean of the Gaussian."""
        mean: Tensor = self(features)[0]
        return mean.permute(0, 3, 1, 2) / 2


def _bell(layer: nn.Linear, h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and −log of the standard deviation (…, 3) of each channel from features (…, F)."""
    mean, log_precision = layer(h).unflatten(-1, (2, 3)).unbind(-2)
    return mean, (log_precision + _START_LOG_PRECISION).clamp(-5, 7)


def build_head(config: LikelihoodConfig, channels: int) -> Head:
    """The head that the settings name, for features of so many channels."""
    if config.head == "categorical":
        return CategoricalHead(channels)
    return GaussianHead(channels) if config.head == "gaussian" else ValueHead()


def bits_per_dim(nats: Tensor, levels: Tensor) -> Tensor:
    """log p in nats of images `levels` (N, H, W, 3) as bits for each channel of each pixel."""
    return -nats / (math.prod(levels.shape[1:]) * math.log(2))
