"""What every collection of images offers: items in a fixed order, read one at a time."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.source import Item

Images = NDArray[np.uint8]
"""RGB images, uint8, (H, W, 3) or (N, H, W, 3)."""


class ImageSource(Protocol):
    """Images in a fixed order, the same on every machine and at every call."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty where the source has none."""

    def items(self) -> Iterator[Item]:
        """All items in order, one at a time: a folder of millions costs no memory."""

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """The image as (H, W, 3), preprocessed if asked; safe to call from several threads.

        Raises `ImageError` where the image cannot be read.
        """
