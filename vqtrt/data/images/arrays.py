"""Images in one numpy array, from memory or `.npy`; what a `.npz` holds is chosen in `npz.py`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqtrt.data.images.decode import fit
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.data.source import Item
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.system.names import printable

MAX_NPZ_BYTES = 16 * 2**30
"""Most that is read from one `.npz`, in bytes, by what its members declare."""

_MAX_CLASSES = 65_536
SHAPES = "(N, H, W, 3), (N, H, W, 1) or (N, H, W)"
"""Shapes of images, for messages."""


class ArrayImages:
    """Images in a uint8 array (N, H, W, 3), or gray (N, H, W, 1) or (N, H, W).

    `labels`: N integers from -1, indices into `classes`; without `classes` these are "0", "1", ….
    Image i is named `STEM[i]`; `stem` may also be several (stem, count) in a row, each counted from
    0. The array is kept, not copied. Raises `VqtrtError` if something does not fit.
    """

    def __init__(
        self,
        array: NDArray[Any],
        labels: Sequence[int] | NDArray[Any] | None = None,
        classes: Sequence[str] = (),
        stem: str | Sequence[tuple[str, int]] = "images",
    ) -> None:
        parts = [(stem, len(array))] if isinstance(stem, str) and array.ndim else list(stem)
        self._parts: list[tuple[str, int]] = parts  # type: ignore[assignment]
        name = printable(parts[0][0] if parts else "images")
        check_images(name, array.dtype, array.shape)
        if sum(count for _, count in self._parts) != len(array):
            raise VqtrtError(f"{name}: the counts of `stem` do not add up to {len(array)}")
        self._array = array[..., None] if array.ndim == 3 else array
        self._labels = None if labels is None else _check_labels(name, labels, len(array), classes)
        if self._labels is not None and not classes:
            classes = tuple(str(i) for i in range(int(self._labels.max()) + 1))
        self._classes = tuple(classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self._classes

    def __len__(self) -> int:
        return len(self._array)

    def items(self) -> Iterator[Item]:
        """All items in order; the key is the index into the array."""
        index = 0
        for stem, count in self._parts:
            for i in range(count):
                label = -1 if self._labels is None else int(self._labels[index])
                yield Item(f"{stem}[{i}]", label, index)
                index += 1

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """A copy of the image as (H, W, 3) uint8; resized only if its size differs."""
        image = self._array[item.key]
        shape = (*image.shape[:2], 3)
        result: Images = np.array(np.broadcast_to(image, shape), order="C", subok=False)
        if preprocessing is None or shape == preprocessing.shape:
            return result
        try:
            return fit(Image.fromarray(result), preprocessing)
        except ImageError as error:
            raise ImageError(f"{item.name}: {error}; leave it out") from error


def check_images(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise `VqtrtError` for an array of this dtype and shape that is none of images."""
    if dtype != np.uint8:
        raise VqtrtError(f"{name}: images are {dtype}; save them as uint8 from 0 to 255")
    gray = len(shape) == 3
    if not (gray or (len(shape) == 4 and shape[3] in (1, 3))):
        hint = "; transpose it from channels first" if shape[1:2] in ((1,), (3,)) else ""
        raise VqtrtError(f"{name}: shape {shape}, but images are {SHAPES}{hint}")
    if gray and shape[2] == 3:
        raise VqtrtError(f"{name}: shape {shape} looks like one image; save it as (1, H, W, 3)")
    if 0 in shape:
        raise VqtrtError(f"{name}: shape {shape} holds no images")


def _check_labels(
    name: str, labels: Sequence[int] | NDArray[Any], count: int, classes: Sequence[str]
) -> NDArray[np.int64]:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.size != count or array.shape[:1] != (count,):
        raise VqtrtError(f"{name}: labels are {array.dtype} {array.shape}, not {count} integers")
    limit = len(classes) or _MAX_CLASSES
    low, high = int(array.min()), int(array.max())
    if low < -1 or high >= limit:
        raise VqtrtError(f"{name}: labels go from {low} to {high}, outside -1 to {limit - 1}")
    return array.reshape(count).astype(np.int64)
