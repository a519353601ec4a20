"""The quantizer of unit vectors: the entry at the smallest angle (arXiv 2110.04627, section 3.1).

Vectors and entries lie on the unit sphere, so the codebook learns directions alone. Few dimensions
(8 to 32) suit it. The codebook follows moving averages, as for `ema`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtrt.models.quantize.deployed import DeployedQuantizer, Nearest
from vqtrt.models.quantize.ema import EMAQuantizer


class CosineQuantizer(EMAQuantizer):
    """Unit entries as the normalized moving averages of the unit vectors that chose them."""

    def deployed(self) -> DeployedQuantizer:
        """The form that graphs have; the length of a vector changes no code."""
        return Nearest(self.entries(), cosine=True)

    def _split(self, z: Tensor) -> Tensor:
        return F.normalize(super()._split(z), dim=-1)

    def _commitment(self, z: Tensor, quantized: Tensor) -> Tensor:
        """Summed over D: the distance of unit vectors is bounded, and its mean shrinks as 1/D."""
        return super()._commitment(z, quantized) * self.config.dim

    @torch.no_grad()
    def _update(self, z: Tensor, codes: Tensor) -> None:
        super()._update(z, codes)
        self.codebook.copy_(F.normalize(self.codebook, dim=-1))

    def _replace(self, mask: Tensor, vectors: Tensor, usage: Tensor) -> None:
        super()._replace(mask, F.normalize(vectors, dim=-1), usage)
