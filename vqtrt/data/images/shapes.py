"""Made pictures of ten colored shapes: a data set that is always at hand, for trials and tests.

Notable:
- Image i of a seed is the same whatever the count: its numbers come from Philox keyed by
  (seed, i), whose raw stream numpy guarantees never to change.
- Arrays pass only through operations that IEEE 754 rounds exactly (+ - * / sqrt), so that the bytes
  are the same on every machine; sines are taken of scalars alone.
- Edges are antialiased from the signed distance to the outline; distances are in units of the
  shape's radius, y points down.
"""

import colorsys
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqtrt.data.images.decode import fit
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.data.source import Item
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable

_Plane = NDArray[np.floating[Any]]
_DRAWS = 20


def _circle(x: _Plane, y: _Plane) -> _Plane:
    return np.sqrt(x * x + y * y) - 0.92


def _ring(x: _Plane, y: _Plane) -> _Plane:
    return np.abs(np.sqrt(x * x + y * y) - 0.75) - 0.25


def _star(x: _Plane, y: _Plane) -> _Plane:
    # Fold the plane onto half a point of the star, then measure to its one edge.
    c, s = math.cos(math.pi / 5), math.sin(math.pi / 5)
    x, y = np.abs(x), -y
    for kx, ky in ((c, -s), (-c, -s)):
        fold = 2 * np.maximum(kx * x + ky * y, 0)
        x, y = x - fold * kx, y - fold * ky
    x, y = np.abs(x), y - 1.08
    bx, by = 0.46 * s, 0.46 * c - 1
    along = np.clip((x * bx + y * by) / (bx * bx + by * by), 0, 1.08)
    dx, dy = x - bx * along, y - by * along
    return np.copysign(np.sqrt(dx * dx + dy * dy), y * bx - x * by)


def _triangle(x: _Plane, y: _Plane) -> _Plane:
    y = y - 0.12
    return np.maximum(0.8660254 * np.abs(x) - 0.5 * y, y) - 0.58


def _box(x: _Plane, y: _Plane, width: float, height: float) -> _Plane:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _union(one: _Plane, other: _Plane) -> _Plane:
    either: _Plane = np.minimum(one, other)
    return either


def _cross(x: _Plane, y: _Plane) -> _Plane:
    return _union(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95))


def _square(x: _Plane, y: _Plane) -> _Plane:
    return _box(x, y, 0.8, 0.8)


def _diamond(x: _Plane, y: _Plane) -> _Plane:
    return (np.abs(x) / 0.66 + np.abs(y) / 1.1 - 1) * 0.566


def _heart(x: _Plane, y: _Plane) -> _Plane:
    # Two circles above, and below them the square on its corner that they sit on.
    x, y = np.abs(x) / 1.75, (0.9 - y) / 1.75
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - 0.35355339
    onto = 0.5 * np.maximum(x + y, 0)
    corner = np.minimum(x * x + (y - 1) ** 2, (x - onto) ** 2 + (y - onto) ** 2)
    heart: _Plane = np.where(x + y > 1, lobe, np.copysign(np.sqrt(corner), x - y))
    return heart * np.float32(1.75)


def _moon(x: _Plane, y: _Plane) -> _Plane:
    x = x + 0.18
    bitten = x - 0.52
    inside = np.sqrt(bitten * bitten + y * y) - 0.82
    moon: _Plane = np.maximum(_circle(x, y) - 0.08, -inside)
    return moon


def _arrow(x: _Plane, y: _Plane) -> _Plane:
    head = np.maximum(0.72 * np.abs(y) + 0.69 * (x - 1.05), 0.02 - x)
    return _union(head, _box(x + 0.45, y, 0.6, 0.27))


class _Kind:
    """A class of picture: outline, hue range in degrees, saturation, value, largest tilt."""

    def __init__(
        self,
        name: str,
        distance: Callable[[_Plane, _Plane], _Plane],
        hue: tuple[float, float],
        saturation: float,
        value: float,
        tilt: float,
    ) -> None:
        self.name, self.distance, self.hue = name, distance, hue
        self.saturation, self.value, self.tilt = saturation, value, math.radians(tilt)


_KINDS = (
    _Kind("blue-square", _square, (213, 228), 0.8, 0.93, 12),
    _Kind("brown-arrow", _arrow, (22, 28), 0.65, 0.62, 12),
    _Kind("cyan-cross", _cross, (176, 188), 0.75, 0.9, 12),
    _Kind("green-triangle", _triangle, (110, 135), 0.8, 0.75, 12),
    _Kind("orange-ring", _ring, (24, 32), 0.95, 0.97, 0),
    _Kind("pink-heart", _heart, (328, 340), 0.45, 0.98, 10),
    _Kind("purple-diamond", _diamond, (266, 280), 0.68, 0.85, 8),
    _Kind("red-circle", _circle, (-4, 6), 0.88, 0.9, 0),
    _Kind("white-moon", _moon, (40, 220), 0.05, 0.97, 20),
    _Kind("yellow-star", _star, (50, 57), 0.85, 0.97, 14),
)

CLASSES = tuple(kind.name for kind in _KINDS)
"""The ten classes in the order of their labels: sorted, like the folders of `write_shapes`."""


class Shapes:
    """`count` RGB images of `size` x `size` pixels, drawn when they are read.

    Image i depends on (seed, i, size) alone; its class, place, scale, tilt and colors are random.
    Raises `VqtrtError` for a count or size below 1 or a seed outside 0 to 2^64 - 1.
    """

    def __init__(self, count: int, seed: int = 0, size: int = 32) -> None:
        if count < 1 or not 8 <= size <= 4096 or not 0 <= seed < 2**64:
            raise VqtrtError(
                f"shapes: count {count}, size {size}, seed {seed}; give a count from 1, a size "
                "from 8 to 4096 and a seed from 0"
            )
        self.count, self.seed, self.size = count, seed, size
        ticks = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        self._x, self._y = np.meshgrid(ticks, ticks)  # pixel centres, -1 to 1

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten names of `CLASSES`."""
        return CLASSES

    def __len__(self) -> int:
        return self.count

    def items(self) -> Iterator[Item]:
        """Items named `shapes-000017.png`; the key is the index."""
        for index in range(self.count):
            yield Item(f"shapes-{index:06}.png", _label(self._draws(index, 1)[0]), index)

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """The image as (size, size, 3) uint8, or of the preprocessing's size."""
        image = self.image(item.key)
        return image if preprocessing is None else fit(Image.fromarray(image), preprocessing)

    def image(self, index: int) -> Images:
        """Draw image `index`: (size, size, 3) uint8."""
        u = self._draws(index, _DRAWS)
        kind = _KINDS[_label(u[0])]
        radius = 0.5 + 0.24 * u[1]
        room = 0.97 - radius
        tilt = kind.tilt * (2 * u[4] - 1)
        c, s = math.cos(tilt) / radius, math.sin(tilt) / radius
        x, y = self._x - room * (2 * u[2] - 1), self._y - room * (2 * u[3] - 1)
        distance = kind.distance(c * x + s * y, c * y - s * x)
        cover = np.clip(0.5 - distance * (radius * self.size / 2), 0, 1)

        hue = kind.hue[0] + (kind.hue[1] - kind.hue[0]) * u[5]
        value = kind.value * (0.88 + 0.14 * u[6])
        saturation = kind.saturation * (0.92 + 0.08 * u[7])
        color = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, min(value, 1))
        # Light falls from above: 8 % brighter at the top of the picture than in the middle.
        light = 1 - 0.08 * self._y

        corner = colorsys.hsv_to_rgb(u[8], 0.2 + 0.25 * u[9], 0.14 + 0.16 * u[10])
        opposite = colorsys.hsv_to_rgb((u[8] + 0.3 * u[11]) % 1, 0.3, 0.1 + 0.22 * u[12])
        angle = 2 * math.pi * u[13]
        ramp = 0.5 + 0.35 * (math.cos(angle) * self._x + math.sin(angle) * self._y)
        # Soft stripes, a triangle wave: a sine would differ between machines in its last bit.
        angle, stripes = math.pi * u[14], 1.5 + 2.5 * u[15]
        phase = stripes * (math.cos(angle) * self._x + math.sin(angle) * self._y) + u[16]
        texture = 0.025 * (np.abs(phase - np.floor(phase) - 0.5) - 0.25)

        result = np.empty((self.size, self.size, 3), np.uint8)
        for channel in range(3):
            low, high = corner[channel], opposite[channel]
            back = low + (high - low) * ramp + texture
            mixed = back + cover * (color[channel] * light - back)
            result[..., channel] = np.clip(mixed, 0, 1) * 255 + 0.5
        return result

    def _draws(self, index: int, count: int) -> list[float]:
        """The first `count` uniform numbers in [0, 1) of an image."""
        raw = np.random.Philox(key=self.seed | index << 64).random_raw(count)
        return [(bits >> 11) * 2.0**-53 for bits in raw.tolist()]


def _label(uniform: float) -> int:
    return int(uniform * len(_KINDS))


def write_shapes(folder: Path, count: int, seed: int = 0, size: int = 32) -> None:
    """Write PNGs into a sub-folder a class: `red-circle/000017.png`.

    Raises `VqtrtError` if the folder is not empty or cannot be written.
    """
    shapes = Shapes(count, seed, size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise VqtrtError(f"{printable(folder)}: not empty; give a new folder")
        for name in CLASSES:
            (folder / name).mkdir()
        for item in shapes.items():
            path = folder / CLASSES[item.label] / f"{item.key:06}.png"
            Image.fromarray(shapes.image(item.key)).save(path)
    except OSError as error:
        raise VqtrtError(
            f"{printable(folder)}: cannot be written ({error.strerror or error}); give another "
            f"folder"
        ) from error
