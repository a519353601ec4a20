"""Several views of an image as one item: what trainers of autoregressive models are fed.

- `flip`: the image and its mirror image (2).
- `ten-crop`: ten crops of the image at 1.1 times the size (10): top left, top right, bottom left,
  bottom right and center, then the same of the mirror image. The order is that of `TenCrop` of
  torchvision, and the factor that of LlamaGen (`extract_codes_c2i.py`, `--crop-range`).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.views import COUNTS, Views

_RANGE = 1.1


class ViewsPreprocessing(Preprocessing):
    """A model's preprocessing, which gives (V, H, W, 3)."""

    views: Views

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return (COUNTS[self.views], *super().shape)

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """As of `Preprocessing`; for crops, of the larger image that they are taken from."""
        return self._whole.scaled_size(width, height)

    @property
    def _whole(self) -> Preprocessing:
        """What gives the image that the views are taken from."""
        factor = _RANGE if self.views == "ten-crop" else 1.0
        return Preprocessing(
            height=int(self.height * factor), width=int(self.width * factor), resample=self.resample
        )

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """All views of an RGB image."""
        whole = self._whole(image)
        mirrored = whole[:, ::-1]
        if self.views == "flip":
            return np.stack([whole, mirrored])
        return np.stack([*self._crops(whole), *self._crops(mirrored)])

    def _crops(self, image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        down, right = image.shape[0] - self.height, image.shape[1] - self.width
        middle = round(down / 2), round(right / 2)
        corners = [(0, 0), (0, right), (down, 0), (down, right), middle]
        return [image[y : y + self.height, x : x + self.width] for y, x in corners]


def with_views(preprocessing: Preprocessing, views: Views) -> ViewsPreprocessing:
    """A preprocessing that gives several views."""
    return ViewsPreprocessing(**preprocessing.model_dump(), views=views)
