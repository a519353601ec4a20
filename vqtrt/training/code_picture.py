"""Codes of clips as colored lines: a code is a column, and like codes have like colors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.grid import BACKGROUND

_WIDTH, _HEIGHT, _GAP = 4, 12, 2
"""Pixels of a code, and between lines."""


def code_colors(entries: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """A color (K, 3) for each entry (K, D) of a codebook: its first three principal components."""
    centred = entries - entries.mean(0)
    _, _, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    shown = np.zeros((len(entries), 3))
    shown[:, : len(axes[:3])] = centred @ axes[:3].T
    # Ranks spread the colors evenly, however few entries lie far out.
    ranks = shown.argsort(0).argsort(0)
    return (32 + 208 * ranks / max(1, len(entries) - 1)).astype(np.uint8)


def codes_picture(
    groups: Sequence[Sequence[NDArray[Any]]], colors: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """A uint8 image (H, W, 3): a line a clip (t,), and more room between groups of clips."""
    lines = sum(len(group) for group in groups)
    width = max((len(clip) for group in groups for clip in group), default=1)
    height = lines * (_HEIGHT + _GAP) + (len(groups) - 1) * _HEIGHT + _GAP
    image = np.full((height, width * _WIDTH + 2 * _GAP, 3), BACKGROUND, np.uint8)
    top = _GAP
    for group in groups:
        for clip in group:
            line = colors[clip].repeat(_WIDTH, 0)
            image[top : top + _HEIGHT, _GAP : _GAP + len(line)] = line
            top += _HEIGHT + _GAP
        top += _HEIGHT
    return image
