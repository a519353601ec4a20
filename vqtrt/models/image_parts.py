"""Encoder and decoder of images (paper, section 4.1): fully convolutional, any divisible size."""

from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.images import ModelConfig


class ResidualBlock(nn.Module):
    """x + 1×1(ReLU(3×3(ReLU(x)))), as in section 4.1."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to the same shape."""
        out: Tensor = x + self.conv1(F.relu(self.conv3(F.relu(x))))
        return out


def _widths(config: ModelConfig) -> list[int]:
    """Channels from the picture inwards, one entry a strided layer."""
    widths = [config.hidden] * config.strided_layers
    if config.stem_hidden is not None and config.strided_layers > 1:
        widths[0] = config.stem_hidden
    return widths


def _blocks(config: ModelConfig) -> list[nn.Module]:
    count, width = config.residual_blocks, config.residual_hidden
    return [ResidualBlock(config.hidden, width) for _ in range(count)] + [nn.ReLU()]


def latent_channels(config: ModelConfig) -> int:
    """Channels between encoder and quantizer: C·D."""
    return config.quantizer.num_codebooks * config.quantizer.dim


def feature_channels(config: ModelConfig) -> int:
    """Channels of what the decoder gives: the image itself, or what a head reads."""
    return 3 if config.likelihood.head == "mse" else _widths(config)[0]


class Encoder(nn.Sequential):
    """Images (N, 3, H, W) in [−0.5, 0.5] to vectors (N, C·D, H/stride, W/stride).

    `latents` are the channels of the vectors, if not C·D.
    """

    def __init__(self, config: ModelConfig, latents: int | None = None) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for width in _widths(config):
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
            channels = width
        if config.bridge:
            layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        else:
            # The first block begins with a ReLU of its own.
            layers.pop()
        count = latents or latent_channels(config)
        super().__init__(*layers, *_blocks(config), nn.Conv2d(channels, count, 1))


class Decoder(nn.Sequential):
    """Vectors (N, C·D, h, w) to images (N, 3, h·stride, w·stride), about [−0.5, 0.5].

    If the model has a head with a likelihood, to what that reads: `feature_channels`, and a ReLU.
    `latents` are the channels of the vectors, if not C·D.
    """

    def __init__(self, config: ModelConfig, latents: int | None = None) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(latents or latent_channels(config), config.hidden, 3, padding=1),
            *_blocks(config),
        ]
        channels = config.hidden
        for width in reversed([feature_channels(config), *_widths(config)[:-1]]):
            layers += [nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
            channels = width
        super().__init__(*(layers[:-1] if config.likelihood.head == "mse" else layers))
