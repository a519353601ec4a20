"""The quantizer of the paper's appendix A.1: the codebook follows moving averages of its vectors.

No gradient reaches the codebook; only the commitment loss is left. With several processes the
counts and sums are summed over all of them, so that every process holds the same codebook.
"""

import torch
from torch import Tensor

from vqtrt.config.parts import QuantizerConfig
from vqtrt.models.quantize.base import VectorQuantizer, sum_over_processes


class EMAQuantizer(VectorQuantizer):
    """Codebook as the moving average of the encoder outputs that chose each entry."""

    total: Tensor
    """(C, K, D) float32: moving average of the sum of the vectors that chose each code (m_i)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        c, k, d = config.num_codebooks, config.codebook_size, config.dim
        # The range of the authors' Sonnet code; `start_from` replaces it before the first step.
        codebook = torch.empty(c, k, d).uniform_(-1 / k, 1 / k)
        self.register_buffer("codebook", codebook)
        self.register_buffer("total", codebook.clone())

    def _learn(self, z: Tensor, codes: Tensor, quantized: Tensor) -> Tensor:
        if self.training:
            self._update(z.detach(), codes)
        return z.new_zeros(())

    @torch.no_grad()
    def _update(self, z: Tensor, codes: Tensor) -> None:
        decay = self._next_decay()
        sums = torch.zeros_like(self.total)
        for book, row, vectors in zip(sums, codes, z, strict=True):
            book.index_add_(0, row, vectors)
        self.usage.lerp_(self._count(codes), 1 - decay)
        self.total.lerp_(sum_over_processes(sums), 1 - decay)
        n = self.usage.sum(-1, keepdim=True)
        k, epsilon = self.config.codebook_size, self.config.epsilon
        smoothed = (self.usage + epsilon) / (n + k * epsilon) * n
        self.codebook.copy_(self.total / smoothed[..., None])
        self._restart_dead(z)

    def _replace(self, mask: Tensor, vectors: Tensor, usage: Tensor) -> None:
        chosen = mask[..., None]
        self.codebook.copy_(torch.where(chosen, vectors, self.codebook))
        self.usage.copy_(torch.where(mask, usage, self.usage))
        self.total.copy_(torch.where(chosen, vectors * usage[..., None], self.total))
