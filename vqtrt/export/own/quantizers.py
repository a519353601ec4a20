"""What turns vectors into codes and back, in the form that a bundle's graphs need it.

A codebook, or a quantizer module of the package vector-quantize-pytorch, becomes one of these small
modules: float32 arithmetic without `cdist`, sampling or anything that only training needs. Each
can also say how far a code is from being the right one, which tells rounding from a mistake.
The package itself is not imported: whoever passes one of its modules has it.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.errors import VqtrtError
from vqtrt.models.quantize.base import distance_terms, nearest_codes

_MAX_SCALAR_CODES = 2**24
"""Where float32 ends to hold every integer."""


class GraphQuantizer(nn.Module, ABC):
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


class Nearest(GraphQuantizer):
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


class _Scalar(GraphQuantizer):
    """Each of d dimensions of a codebook is rounded by itself; `levels` (d) says to how many.

    `basis` (d) says what a step of a dimension counts in the code.
    """

    levels: Tensor
    basis: Tensor
    period: Tensor
    rotation: Tensor | None

    def __init__(
        self,
        levels: Tensor,
        basis: Tensor,
        *,
        channels: int,
        num_codebooks: int,
        project_in: nn.Module,
        project_out: nn.Module,
        rotation: Tensor | None,
    ) -> None:
        size = int(levels.long().prod())
        if size > _MAX_SCALAR_CODES:
            raise VqtrtError(f"a codebook of {size} codes: at most {_MAX_SCALAR_CODES} fit a graph")
        super().__init__(
            channels=channels,
            codebook_size=size,
            num_codebooks=num_codebooks,
            code_dim=len(levels),
            project_in=project_in,
            project_out=project_out,
        )
        self.register_buffer("levels", levels.to(torch.int32))
        self.register_buffer("basis", basis.to(torch.int32))
        self.register_buffer("period", (levels * basis).to(torch.int32))
        self.register_buffer("rotation", None if rotation is None else rotation.float())

    @abstractmethod
    def _steps(self, z: Tensor) -> Tensor:
        """Level of each dimension (..., C, d), integers 0 to L − 1 in z's dtype."""

    @abstractmethod
    def _values(self, steps: Tensor) -> Tensor:
        """What levels (..., C, d) stand for."""

    @abstractmethod
    def _overshoot(self, z: Tensor, steps: Tensor) -> Tensor:
        """How far z (M, C, d) lies outside of what is rounded to these steps."""

    def _codes(self, z: Tensor) -> Tensor:
        steps = self._steps(self._split(z)).to(torch.int32)
        return (steps * self.basis).sum(-1, dtype=torch.int32)

    def _vectors(self, codes: Tensor) -> Tensor:
        values = self._values(self._unpack(codes))
        if self.rotation is not None:
            values = values @ self.rotation.t()
        return values.flatten(-2)

    def _margins(self, z: Tensor, codes: Tensor) -> Tensor:
        steps = self._unpack(codes).to(z.dtype)
        return self._overshoot(self._split(z), steps).clamp_min(0).amax(-1)

    def _split(self, z: Tensor) -> Tensor:
        """(..., C·d) to (..., C, d), rotated."""
        z = z.reshape(*z.shape[:-1], self.num_codebooks, self.code_dim)
        return z if self.rotation is None else z @ self.rotation

    def _unpack(self, codes: Tensor) -> Tensor:
        """Levels (..., C, d) float32 of codes (..., C)."""
        codes = codes[..., None].to(torch.int32)
        # What is divided is a multiple: no rounding of the quotient, on any backend.
        return (codes % self.period - codes % self.basis).float() / self.basis.float()


class FiniteScalar(_Scalar):
    """FSQ: tanh, or a clamp (`hard`), then rounding to L levels (arXiv 2309.15505).

    `symmetric` is the rounding of arXiv 2411.19842, section 3.2.
    """

    reach: Tensor
    shift: Tensor
    offset: Tensor

    def __init__(
        self,
        levels: Tensor,
        basis: Tensor,
        *,
        symmetric: bool,
        hard: bool,
        channels: int,
        num_codebooks: int,
        project_in: nn.Module,
        project_out: nn.Module,
        rotation: Tensor | None,
    ) -> None:
        super().__init__(
            levels,
            basis,
            channels=channels,
            num_codebooks=num_codebooks,
            project_in=project_in,
            project_out=project_out,
            rotation=rotation,
        )
        self.symmetric, self.hard = symmetric, hard
        # The package's own 1e-3, and its order of operations: the same float32 to the last bit.
        reach = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        shift = offset / reach
        self.register_buffer("reach", reach.float())
        self.register_buffer("offset", offset.float())
        self.register_buffer("shift", (shift if hard else shift.atanh()).float())

    def _positions(self, z: Tensor) -> Tensor:
        """Where z falls on the axis of levels, from 0; without symmetry from −(L // 2)."""
        if self.symmetric:
            bounded = z.clamp(-1, 1) if self.hard else z.tanh()
            return (self.levels - 1) * (bounded + 1) / 2
        z = z + self.shift
        return (z.clamp(-1, 1) if self.hard else z.tanh()) * self.reach - self.offset

    def _steps(self, z: Tensor) -> Tensor:
        if self.symmetric:
            return (self._positions(z) + 0.5).floor()
        return self._positions(z).round() + self._half_width()

    def _values(self, steps: Tensor) -> Tensor:
        if self.symmetric:
            return steps * (2 / (self.levels - 1)) - 1
        return (steps - self._half_width()) / self._half_width()

    def _overshoot(self, z: Tensor, steps: Tensor) -> Tensor:
        if not self.symmetric:
            steps = steps - self._half_width()
        return (self._positions(z) - steps).abs() - 0.5

    def _half_width(self) -> Tensor:
        return self.levels // 2


class LookupFree(_Scalar):
    """LFQ: the sign of each dimension is a bit (arXiv 2310.05737); a code is ±`value` in each."""

    def __init__(
        self,
        basis: Tensor,
        *,
        value: float,
        channels: int,
        num_codebooks: int,
        project_in: nn.Module,
        project_out: nn.Module,
        rotation: Tensor | None,
    ) -> None:
        super().__init__(
            torch.full_like(basis, 2),
            basis,
            channels=channels,
            num_codebooks=num_codebooks,
            project_in=project_in,
            project_out=project_out,
            rotation=rotation,
        )
        self.value = value

    def _steps(self, z: Tensor) -> Tensor:
        return (z > 0).to(z.dtype)

    def _values(self, steps: Tensor) -> Tensor:
        return steps * (2 * self.value) - self.value

    def _overshoot(self, z: Tensor, steps: Tensor) -> Tensor:
        """Of the length of z."""
        wrong = (z > 0) != (steps > 0)
        length = z.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
        return torch.where(wrong, z.abs() / length, 0)


def _terms(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """`distance_terms`, of its own memory."""
    weight, bias = distance_terms(codebook)
    return weight.clone(), bias.clone()
