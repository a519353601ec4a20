"""SimVQ: the codebook is a learned linear map of frozen random vectors (arXiv 2411.02038).

A step moves the map, and with it all entries at once, so none dies: there are no restarts, and no
start from the data. It helps most with large codebooks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.parts import QuantizerConfig
from vqtrt.models.quantize.base import VectorQuantizer


class SimVQQuantizer(VectorQuantizer):
    """Entries B Wᵀ with B (C, K, D) frozen and W (C, D, D) learned by the codebook loss."""

    basis: Tensor
    """(C, K, D) float32, drawn once from N(0, 1/D)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        c, k, d = config.num_codebooks, config.codebook_size, config.dim
        self.register_buffer("basis", torch.randn(c, k, d) / d**0.5)
        # As a linear layer begins in the authors' code, without a bias.
        self.weight = nn.Parameter(torch.empty(c, d, d).uniform_(-(d**-0.5), d**-0.5))

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """Entries (C, K, D), with the gradient of the map."""
        return self.basis @ self.weight.mT

    @torch.no_grad()
    def start_from(self, z: Tensor) -> None:
        """Leave the codebook as it is drawn."""

    def _learn(self, z: Tensor, codes: Tensor, quantized: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.usage.lerp_(self._count(codes), 1 - self._next_decay())
        return F.mse_loss(quantized, z.detach())

    def _replace(self, mask: Tensor, vectors: Tensor, usage: Tensor) -> None:
        raise NotImplementedError("entries are not replaced one by one")
