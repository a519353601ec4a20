"""How an image of any size becomes the size a model was trained on: resize, then centre-crop."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vqtrt.errors import ImageError, VqtrtError

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

MAX_SIDE = 16384
_MAX_PIXELS = 1 << 26
"""Of one picture, 192 MiB: a batch holds many, and a bundle may come from anyone."""


class Preprocessing(BaseModel):
    """Part of a model: recorded in its config and its bundle, so encode repeats what train did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: int = Field(32, gt=0, le=MAX_SIDE)
    """Rows of the result, in pixels."""
    width: int = Field(32, gt=0, le=MAX_SIDE)
    """Columns of the result, in pixels."""
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    """Filter of the resize; antialiased when shrinking, as Pillow does."""

    @model_validator(mode="after")
    def _bounded(self) -> "Preprocessing":
        if self.height * self.width > _MAX_PIXELS:
            raise ValueError(f"{self.height}x{self.width} pixels: {_MAX_PIXELS} at most")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return (self.height, self.width, 3)

    def with_size(self, text: str) -> "Preprocessing":
        """The same with another size, written `HxW`, or `128` for a square."""
        height, cross, width = text.lower().partition("x")
        try:
            sides = {"height": int(height), "width": int(width if cross else height)}
            return Preprocessing.model_validate(self.model_dump() | sides)
        except ValueError:
            raise VqtrtError(
                f"size {text!r}: expected HxW in pixels, such as 128x128, or 128 for a square"
            ) from None

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize: both sides cover the target, one fits it exactly."""
        scale = max(self.width / width, self.height / height)
        return max(self.width, round(width * scale)), max(self.height, round(height * scale))

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize an RGB image so that it covers the target, crop the middle; (height, width, 3)."""
        if image.mode != "RGB":
            raise ImageError(f"expected an RGB image, got mode {image.mode}")
        if image.size != (self.width, self.height):
            size = self.scaled_size(*image.size)
            image = image.resize(size, _RESAMPLING[self.resample])
            left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
            image = image.crop((left, top, left + self.width, top + self.height))
        return np.asarray(image, dtype=np.uint8)
