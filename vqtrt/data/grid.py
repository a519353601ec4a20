"""Pictures of many images: originals over their reconstructions, as one PNG.

Notable: pixels are repeated, never interpolated, so what is seen is what the model gave.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqtrt.errors import VqtrtError
from vqtrt.system.atomic import write_bytes

BACKGROUND = 255


def image_grid(
    rows: Sequence[NDArray[np.uint8]], padding: int = 2, scale: int = 1
) -> NDArray[np.uint8]:
    """Lay out rows of images, each uint8 (n, H, W, 3), as one uint8 image, white in between.

    Each pixel becomes scale × scale; `padding` is in pixels of the result, between images and
    around them. Rows may differ in n, and are filled with white; H and W are the same for all.
    Raises `ValueError` for anything else.
    """
    if not rows or padding < 0 or scale < 1:
        raise ValueError("a grid needs at least one row, padding >= 0 and scale >= 1")
    size = rows[0].shape[1:]
    for row in rows:
        if row.dtype != np.uint8 or row.ndim != 4 or row.shape[3] != 3 or row.shape[1:] != size:
            raise ValueError(f"rows must be uint8 (n, H, W, 3), all of one size, not {row.shape}")
    height, width = size[0] * scale + padding, size[1] * scale + padding
    columns = max(len(row) for row in rows)
    grid = np.full(
        (len(rows) * height + padding, columns * width + padding, 3), BACKGROUND, np.uint8
    )
    for i, row in enumerate(rows):
        top = padding + i * height
        for j, image in enumerate(row):
            left = padding + j * width
            big = image.repeat(scale, axis=0).repeat(scale, axis=1)
            grid[top : top + big.shape[0], left : left + big.shape[1]] = big
    return grid


def spread(count: int, wanted: int) -> set[int]:
    """At most `wanted` of the numbers 0 to count − 1, evenly spread, with both ends."""
    return {round(x) for x in np.linspace(0, count - 1, min(count, wanted))}


def pairs_grid(
    originals: NDArray[np.uint8],
    reconstructions: NDArray[np.uint8],
    columns: int = 16,
    scale: int = 2,
) -> NDArray[np.uint8]:
    """Lines of `columns` originals, each with the line of their reconstructions below it.

    Both are uint8 (n, H, W, 3), n at least 1; gives one uint8 image. Raises `ValueError` otherwise.
    """
    if originals.shape != reconstructions.shape or not len(originals) or columns < 1:
        raise ValueError(
            f"as many originals as reconstructions are needed, at least one, and of one shape, "
            f"not {originals.shape} and {reconstructions.shape}"
        )
    columns = min(columns, len(originals))
    rows = [
        images[start : start + columns]
        for start in range(0, len(originals), columns)
        for images in (originals, reconstructions)
    ]
    return image_grid(rows, scale=scale)


def check_png(path: Path) -> None:
    """Raise `VqtrtError` if `save_png` could not write: known before the work, not after it."""
    if path.is_dir():
        raise VqtrtError(f"{path}: is a folder; give a file name, such as {path / 'grid.png'}")
    if not path.parent.is_dir():
        raise VqtrtError(f"{path.parent}: no such folder; create it first")
    if not os.access(path.parent, os.W_OK):
        raise VqtrtError(f"{path}: cannot be written (no permission); give another name")


def save_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a uint8 image (H, W, 3) as PNG: the whole file, or none.

    Raises `VqtrtError` if it cannot be written.
    """
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    try:
        write_bytes(path, data.getbuffer())
    except OSError as err:
        raise VqtrtError(
            f"{path}: cannot be written ({err.strerror}); mend that or give another name"
        ) from err
