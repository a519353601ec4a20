"""The nearest entry of a codebook: one function for training, the torch engine and the graphs.

Distances are float32 whatever the rest of the model runs in, as `|e|² − 2·z·e` around the mean of
the codebook: the term `|z|²` is the same for every code, and half precision would flip codes.
"""

from torch import Tensor
from torch.nn import functional as F


def distance_terms(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """What makes a distance one affine map of z (D): weight (K, D) and bias (K,), float32.

    The map is `|z − e|²` less a term that is the same for all e. Around the mean m of the codebook
    it is `−2·z·(e − m) + |e − m|² + 2·m·(e − m)`: where all entries and z lie close together, as
    early in training, the plain `−2·z·e + |e|²` would lose the small distances in the rounding of
    large terms. Computed in float64, once a codebook.
    """
    entries = codebook.double()
    mean = entries.mean(0)
    offsets = entries - mean
    bias = offsets.square().sum(-1) + 2 * offsets @ mean
    return (-2 * offsets).float(), bias.float()


def nearest_codes(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Index (...) int64 of the entry nearest to z (..., D), by `distance_terms`; first of ties."""
    return F.linear(z, weight, bias).argmin(-1)
