"""The VQ-VAE: encoder, quantizer, decoder, and the loss of the paper's equation 3."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.images import ModelConfig
from vqtrt.models.heads import build_head
from vqtrt.models.image_parts import Decoder, Encoder, feature_channels
from vqtrt.models.quantize import build_quantizer


class Losses(NamedTuple):
    """What a training step looks at; scalars."""

    total: Tensor
    """Reconstruction plus codebook and commitment loss."""
    reconstruction: Tensor
    """Mean squared error over the variance of the data, so 1 is what a constant picture scores."""
    perplexity: Tensor
    """Of this batch's codes."""


class VQVAE(nn.Module):
    """Images (N, 3, H, W) in [−0.5, 0.5]; H and W divisible by the stride."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = build_quantizer(config.quantizer)
        self.decoder = Decoder(config)
        self.head = build_head(config.likelihood, feature_channels(config))

    def forward(self, images: Tensor, variance: float) -> Losses:
        """Losses of a batch; `variance` is that of the data's pixels, on the scale of `images`."""
        quantized = self.quantizer(self.encoder(images))
        vectors = self._hidden(quantized.vectors) if self.training else quantized.vectors
        error = F.mse_loss(self.decoder(vectors).float(), images) / variance
        return Losses(error + quantized.loss, error.detach(), quantized.perplexity)

    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, 3, H, W) about [−0.5, 0.5] of codes (N, h, w, C)."""
        return self.head.image(self.decoder(self.quantizer.lookup(codes)))

    def _hidden(self, vectors: Tensor) -> Tensor:
        """Vectors (N, C·D, h, w) with zeros at `code_dropout` of the positions.

        Not scaled up as in a layer of dropout: the decoder is to know the entries as they are.
        """
        share = self.config.code_dropout
        if not share:
            return vectors
        n, _, h, w = vectors.shape
        return vectors * (torch.rand(n, 1, h, w, device=vectors.device) >= share)
