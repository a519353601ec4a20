"""The two deployed forms of a model: bytes to codes, and codes to bytes.

These modules are what is exported to ONNX and what the torch engine runs. Scaling to and from
bytes is inside, so that nobody can preprocess wrongly. The first step after the uint8 input and
the last before the uint8 output are plain casts: TensorRT takes uint8 at the edge only.
"""

import torch
from torch import Tensor, nn

from vqtrt.models.quantize.base import distance_terms, nearest_codes
from vqtrt.models.vqvae import VQVAE


def to_unit(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [−0.5, 0.5]."""
    return images.to(torch.float32).permute(0, 3, 1, 2) * (1 / 255) - 0.5


def to_bytes(images: Tensor) -> Tensor:
    """float (N, 3, H, W) about [−0.5, 0.5] to uint8 (N, H, W, 3), rounded and clamped."""
    levels = ((images.float() + 0.5) * 255).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


class EncoderGraph(nn.Module):
    """`images` uint8 (N, H, W, 3) to `codes` int32 (N, h, w), or (N, h, w, C) for C codebooks."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.dim = model.config.quantizer.dim
        for index, codebook in enumerate(model.quantizer.codebook.detach()):
            weight, bias = distance_terms(codebook)
            self.register_buffer(f"weight{index}", weight.clone())
            self.register_buffer(f"bias{index}", bias.clone())
        self.num_codebooks = model.config.quantizer.num_codebooks

    def vectors(self, images: Tensor) -> Tensor:
        """What is quantized: (N, h, w, C·D) float32."""
        z: Tensor = self.encoder(to_unit(images)).permute(0, 2, 3, 1).float()
        return z

    def forward(self, images: Tensor) -> Tensor:
        """The codes of a batch of images."""
        z = self.vectors(images)
        parts = [z] if self.num_codebooks == 1 else torch.split(z, self.dim, dim=-1)
        codes = [
            nearest_codes(part, self.get_buffer(f"weight{i}"), self.get_buffer(f"bias{i}"))
            for i, part in enumerate(parts)
        ]
        joined = codes[0] if self.num_codebooks == 1 else torch.stack(codes, -1)
        return joined.to(torch.int32)


class DecoderGraph(nn.Module):
    """`codes` int32 (N, h, w) or (N, h, w, C) to `images` uint8 (N, H, W, 3)."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.quantizer = model.quantizer
        self.decoder = model.decoder
        self.num_codebooks = model.config.quantizer.num_codebooks

    def forward(self, codes: Tensor) -> Tensor:
        """The images of a batch of codes."""
        if self.num_codebooks == 1:
            codes = codes[..., None]
        return to_bytes(self.decoder(self.quantizer.lookup(codes.long())))
