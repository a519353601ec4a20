"""The multi-resolution STFT loss of waveforms (Parallel WaveGAN, arXiv 1910.11480, section 2.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_FLOOR = 1e-5
"""Least power: what is quieter sounds like silence, and its logarithm would be noise."""


def stft_loss(made: Tensor, target: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean over window sizes of spectral convergence and log-magnitude error (equations 4 to 6).

    `made` and `target` are float32 (N, T); a scalar comes back. Windows move on by a quarter.
    """
    total = made.new_zeros(())
    for size in sizes:
        ours, theirs = _magnitudes(made, size), _magnitudes(target, size)
        convergence = (theirs - ours).norm() / theirs.norm().clamp_min(1e-4)
        total = total + convergence + F.l1_loss(ours.log(), theirs.log())
    return total / len(sizes)


def _magnitudes(audio: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size, device=audio.device)
    spectrum = torch.stft(
        audio,
        size,
        size // 4,
        window=window * (2 / window.sum()),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum.real.square() + spectrum.imag.square()
    return (power + _FLOOR * _FLOOR).sqrt()
