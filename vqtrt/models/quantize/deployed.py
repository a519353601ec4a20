"""The deployed form of a quantizer: what the graphs of a bundle have, and verification judges by.

A quantizer that vqtrt trained (`VectorQuantizer.deployed`), a codebook, or a quantizer module of
the package vector-quantize-pytorch (`export/own/adapt.py`) becomes one of these small modules:
float32 arithmetic without `cdist`, sampling or anything that only training needs. Each can also
say how far a code is from being the right one, which tells rounding from a mistake.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.models.quantize.distances import distance_terms, nearest_codes


class DeployedQuantizer(nn.Module, ABC):
    """Vectors (..., channels) to codes (..., C) and back; C codebooks of K codes.

    `codebook_size` is K, `num_codebooks` C, `code_dim` the length of what one code stands for.
    `channels` is the length of the encoder's vectors, before `project_in`.
    """

    def __init__(
        self,
        *,
        channels: int,
        codebook_size: int,
        num_codebooks: int,
        code_dim: int,
        project_in: nn.Module | None = None,
        project_out: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        self.code_dim = code_dim
        self.project_in = project_in or nn.Identity()
        self.project_out = project_out or nn.Identity()

    def encode(self, z: Tensor) -> Tensor:
        """Codes (..., C), integers, of float32 vectors z (..., channels)."""
        return self._codes(self.project_in(z))

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., channels) float32 of int64 codes (..., C)."""
        vectors: Tensor = self.project_out(self._vectors(codes))
        return vectors

    def margins(self, z: Tensor, codes: Tensor) -> Tensor:
        """By how much codes (M, C) are not the right ones for z (M, channels); 0 where they are.

        A share (M, C) of what float32 rounds: small where rounding decided. Call it on a float64
        copy of this module, with z in float64.
        """
        return self._margins(self.project_in(z), codes)

    @abstractmethod
    def _codes(self, z: Tensor) -> Tensor:
        """Codes (..., C) of projected vectors."""

    @abstractmethod
    def _vectors(self, codes: Tensor) -> Tensor:
        """Vectors of codes (..., C), before they are projected."""

    @abstractmethod
    def _margins(self, z: Tensor, codes: Tensor) -> Tensor:
        """`margins` of projected vectors."""


class Nearest(DeployedQuantizer):
    """The nearest entry of each of C codebooks (C, K, D), or the most similar one (`cosine`).

    The codebooks share the vector's C·D channels in order; with `residual` each has all D, and
    quantizes what those before it left.
    """

    def __init__(
        self,
        codebooks: Tensor,
        *,
        residual: bool = False,
        cosine: bool = False,
        channels: int | None = None,
        project_in: nn.Module | None = None,
        project_out: nn.Module | None = None,
    ) -> None:
        count, size, dim = codebooks.shape
        super().__init__(
            channels=channels or (dim if residual else count * dim),
            codebook_size=size,
            num_codebooks=count,
            code_dim=dim,
            project_in=project_in,
            project_out=project_out,
        )
        self.residual, self.cosine = residual, cosine
        for i, codebook in enumerate(codebooks.detach().float()):
            # A vector's length changes no cosine's rank: it is not divided out.
            weight, bias = (-codebook, codebook.new_zeros(size)) if cosine else _terms(codebook)
            self.register_buffer(f"entries{i}", codebook.clone())
            self.register_buffer(f"weight{i}", weight)
            self.register_buffer(f"bias{i}", bias)

    def _codes(self, z: Tensor) -> Tensor:
        parts = self._parts(z)
        codes = []
        for i in range(self.num_codebooks):
            part = z if self.residual else parts[i]
            codes.append(nearest_codes(part, self._of("weight", i), self._of("bias", i)))
            if self.residual and i + 1 < self.num_codebooks:
                z = z - F.embedding(codes[-1], self._of("entries", i))
        return torch.stack(codes, -1)

    def _vectors(self, codes: Tensor) -> Tensor:
        entries = [
            F.embedding(codes[..., i], self._of("entries", i)) for i in range(self.num_codebooks)
        ]
        if not self.residual:
            return torch.cat(entries, -1)
        total = entries[0]
        for entry in entries[1:]:
            total = total + entry
        return total

    def _margins(self, z: Tensor, codes: Tensor) -> Tensor:
        """How much farther than the nearest entry, of |z|² + |e|²; along the codes' own path."""
        parts = self._parts(z)
        margins = []
        for i in range(self.num_codebooks):
            book = self._of("entries", i)
            part = z if self.residual else parts[i]
            chosen = codes[:, i]
            squares = book.square().sum(-1)
            x = F.normalize(part, dim=-1) if self.cosine else part
            costs = (0 if self.cosine else squares) - 2 * x @ book.mT
            gap = costs.gather(1, chosen[:, None])[:, 0] - costs.amin(-1)
            scale = x.square().sum(-1) + squares[chosen]
            margins.append(gap / scale.clamp_min(torch.finfo(z.dtype).tiny))
            if self.residual:
                z = z - book[chosen]
        return torch.stack(margins, -1)

    def _parts(self, z: Tensor) -> tuple[Tensor, ...]:
        return (z,) if self.residual else torch.split(z, self.code_dim, dim=-1)

    def _of(self, name: str, index: int) -> Tensor:
        return self.get_buffer(f"{name}{index}")


def _terms(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """`distance_terms`, of its own memory."""
    weight, bias = distance_terms(codebook)
    return weight.clone(), bias.clone()
