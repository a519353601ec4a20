"""The paper's own quantizer: the codebook learns from the codebook loss of equation 3."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.parts import QuantizerConfig
from vqtrt.models.quantize.base import VectorQuantizer


class GradientQuantizer(VectorQuantizer):
    """Codebook moved by the gradient of ‖sg[z] − e‖²."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        c, k, d = config.num_codebooks, config.codebook_size, config.dim
        # The range of the authors' Sonnet code; `start_from` replaces it before the first step.
        self.codebook = nn.Parameter(torch.empty(c, k, d).uniform_(-1 / k, 1 / k))

    def _learn(self, z: Tensor, codes: Tensor, quantized: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.usage.lerp_(self._count(codes), 1 - self._next_decay())
                self._restart_dead(z)
        return F.mse_loss(quantized, z.detach())

    def _replace(self, mask: Tensor, vectors: Tensor, usage: Tensor) -> None:
        # Through .data: the step's graph still holds the entries that the loss was made of.
        data = self.codebook.data
        data.copy_(torch.where(mask[..., None], vectors, data))
        self.usage.copy_(torch.where(mask, usage, self.usage))
