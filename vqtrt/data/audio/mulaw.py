"""Mu-law: audio in 256 levels that lie closer where it is quiet (ITU-T G.711's law, µ = 255)."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVELS = 256
_MU = LEVELS - 1


def mulaw_encode(audio: ArrayLike) -> NDArray[np.uint8]:
    """Levels 0 to 255 of samples in [−1, 1], which are clipped to it, in the audio's shape.

    The continuous law sign(x)·ln(1 + µ|x|) / ln(1 + µ), rounded to the nearest of 256 levels.
    """
    x = np.clip(np.asarray(audio, np.float32), -1, 1)
    bent = np.sign(x) * np.log1p(_MU * np.abs(x)) / math.log(LEVELS)
    levels: NDArray[np.uint8] = np.floor((bent + 1) / 2 * _MU + 0.5).astype(np.uint8)
    return levels


def mulaw_decode(levels: ArrayLike) -> NDArray[np.float32]:
    """Samples float32 of levels 0 to 255: 0 is −1 and 255 is 1."""
    bent = np.asarray(levels).astype(np.float64) / _MU * 2 - 1
    audio = np.sign(bent) * np.expm1(np.abs(bent) * math.log(LEVELS)) / _MU
    out: NDArray[np.float32] = audio.astype(np.float32)
    return out
