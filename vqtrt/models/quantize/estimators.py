"""How gradients pass a quantizer, which has none of its own.

Both give exactly the chosen entries, to the bit: what is exported looks them up. They differ in
the gradient that the encoder gets.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Estimator = Callable[[Tensor, Tensor], Tensor]
_SMALL = 1e-3
"""A ratio of lengths from which the rotation says nothing of use."""
_OPPOSITE = -0.999
"""A cosine from which the plane of the rotation is rounding."""


def straight_through(z: Tensor, entries: Tensor) -> Tensor:
    """The entries (…, D); the gradient goes to z (…, D) as it is (paper, section 3.2)."""
    return entries.detach() + (z - z.detach())


def rotation(z: Tensor, entries: Tensor) -> Tensor:
    """The entries (…, D); the gradient is rotated and scaled as z is onto its entry.

    The rotation trick (Fifty et al. 2024, arXiv 2410.06424): entry = (|entry| / |z|) R z with R and
    the ratio held constant, so that a gradient at an angle to the entry reaches z at that angle.
    Where the rotation is ill-defined (a vector of about zero, or opposite ones), the gradient goes
    straight through.
    """
    e, q = z.detach(), entries.detach()
    z_length, q_length = e.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)
    cosine = F.cosine_similarity(e, q, dim=-1)[..., None]
    plain = (z_length <= _SMALL * q_length) | (q_length <= _SMALL * z_length) | (cosine < _OPPOSITE)
    # Ones in those rows before any division: `where` alone lets NaN through the backward.
    e, q = torch.where(plain, torch.ones_like(e), e), torch.where(plain, torch.ones_like(q), q)
    e_unit, q_unit = F.normalize(e, dim=-1), F.normalize(q, dim=-1)
    ratio = q.norm(dim=-1, keepdim=True) / e.norm(dim=-1, keepdim=True)
    middle = F.normalize(e_unit + q_unit, dim=-1)
    # R = 1 − 2 m mᵀ + 2 q eᵀ, applied to z without ever being written out (section 4.2 there).
    rotated = (
        z
        - 2 * (z * middle).sum(-1, keepdim=True) * middle
        + 2 * (z * e_unit).sum(-1, keepdim=True) * q_unit
    )
    path = torch.where(plain, z, ratio * rotated)
    return entries.detach() + (path - path.detach())


ESTIMATORS: dict[str, Estimator] = {"straight-through": straight_through, "rotation": rotation}
