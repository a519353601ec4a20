"""Lower bounds of log p(x): how the likelihoods of the paper's section 4.1 are computed.

Notable:
- All bounds are in nats, (N,) float64, one for each image, for the sum over its pixels.
- With w_s = p(x, z_s) / q(z_s | x) and z_s drawn from q, log (1/S) Σ w_s bounds log p(x), and the
  more samples, the tighter (Burda et al. 2015, arXiv 1509.00519). One sample gives the ELBO.
- A VQ-VAE has q at one point, so that w = p(x | z_q) p(z_q): more samples change nothing.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Bound(NamedTuple):
    """What is known of the images of a batch; each (N,) float64, in nats."""

    single: Tensor
    """The bound from one sample: the ELBO, estimated; for codes, log p(x, z_q)."""
    multi: Tensor
    """The bound from all samples, or `single` if there is one."""
    reconstruction: Tensor
    """log p(x | z) of the first sample."""
    latents: Tensor
    """`reconstruction` less `single`: what the latents cost; KL of q and p, if that is known."""


def multi_sample_bound(log_w: Tensor) -> Tensor:
    """log (1/S) Σ w for log w (…, S)."""
    return log_w.logsumexp(-1) - math.log(log_w.shape[-1])


def leave_one_out(log_w: Tensor) -> Tensor:
    """VIMCO's baseline of each sample (…, S): the bound with the sample's weight replaced.

    In its place stands the geometric mean of the others' (Mnih & Rezende 2016, arXiv 1602.06725,
    equation 10). The subtraction of one weight from the sum of all would lose it, where weights
    differ by hundreds of nats; this adds S rows up anew instead.
    """
    samples = log_w.shape[-1]
    shift = log_w.amax(-1, keepdim=True)
    centered = log_w - shift
    rows = centered.unsqueeze(-2).expand(*centered.shape, samples).clone()
    others = (centered.sum(-1, keepdim=True) - centered) / (samples - 1)
    rows.diagonal(dim1=-2, dim2=-1).copy_(others)
    return rows.logsumexp(-1) - math.log(samples) + shift


def vimco_surrogate(log_w: Tensor, log_q: Tensor) -> Tensor:
    """What has the gradient of VIMCO (…,): log w (…, S) with its gradient, log q(z_s | x) (…, S).

    The reference, which `VIMCO.forward` computes with one sample's decoder in memory.
    """
    bound = multi_sample_bound(log_w)
    signal = (bound[..., None] - leave_one_out(log_w)).detach()
    return bound + (signal * log_q).sum(-1)


def gaussian_kl(mean: Tensor, log_scale: Tensor) -> Tensor:
    """KL of a diagonal Gaussian from the standard one (N,), float64, summed over latents."""
    mean, log_scale = mean.double().flatten(1), log_scale.double().flatten(1)
    return 0.5 * (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)


def draw_codes(log_probs: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Codes (…, S) int64 drawn independently from log probabilities (…, K), by inversion."""
    ends = log_probs.exp().cumsum(-1)
    shape = (*log_probs.shape[:-1], samples)
    levels = torch.rand(shape, device=ends.device, generator=generator) * ends[..., -1:]
    return torch.searchsorted(ends, levels, right=True).clamp_max(log_probs.shape[-1] - 1)
