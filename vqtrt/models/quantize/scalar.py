"""Deployed quantizers that round each dimension by itself: FSQ and LFQ."""

from abc import abstractmethod
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from vqtrt.errors import VqtrtError
from vqtrt.models.quantize.deployed import DeployedQuantizer

_MAX_SCALAR_CODES = 2**24
"""Float32 holds every integer up to here."""


class Common(TypedDict):
    """What every deployed quantizer is told; see `DeployedQuantizer`."""

    channels: int
    num_codebooks: int
    project_in: nn.Module
    project_out: nn.Module


class _Scalar(DeployedQuantizer):
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
        rotation: Tensor | None,
        **common: Unpack[Common],
    ) -> None:
        size = int(levels.long().prod())
        if size > _MAX_SCALAR_CODES:
            raise VqtrtError(f"a codebook of {size} codes: at most {_MAX_SCALAR_CODES} fit a graph")
        super().__init__(codebook_size=size, code_dim=len(levels), **common)
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
        rotation: Tensor | None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(levels, basis, rotation=rotation, **common)
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
        rotation: Tensor | None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(torch.full_like(basis, 2), basis, rotation=rotation, **common)
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
