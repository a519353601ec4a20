"""Images in one numpy array, from memory or `.npy`; what a `.npz` holds is chosen in `npz.py`.

Notable: files are read by the code below and not by `numpy.load`, so that nothing is unpickled,
no header is trusted before it is checked, and a large `.npy` stays on disk (memory-mapped).
"""

import ast
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqtrt.data.images.decode import fit
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.data.source import Item
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.system.files import open_file
from vqtrt.system.names import printable

MAX_HEADER = 64 * 1024
"""Longest `.npy` header that is read, in bytes."""
MAX_NPZ_BYTES = 16 * 2**30
"""Most that is read from one `.npz`, in bytes, by what its members declare."""

_MAX_CLASSES = 65_536
_PLAIN_DTYPE = re.compile(r"[<>|=]?(\?|b1|[iu][1248]|f[248]|c(8|16))")
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
        if preprocessing is None or shape[:2] == (preprocessing.height, preprocessing.width):
            return result
        try:
            return fit(Image.fromarray(result), preprocessing)
        except ImageError as error:
            raise ImageError(f"{item.name}: {error}; leave it out") from error


class Header(NamedTuple):
    """What precedes the data of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    nbytes: int


def open_npy(path: Path, mmap: bool = True) -> NDArray[Any]:
    """Read a `.npy` of booleans or numbers, by default as a read-only memory map.

    Never unpickles. Raises `VqtrtError` for anything that is not a well-formed `.npy` (versions
    1.0 to 3.0) whose data is all there. A mapped file must not be shortened while in use.
    """
    name = printable(path)
    try:
        with open_file(path) as stream:
            header = read_header(stream, name)
            offset = stream.tell()
            present = stream.seek(0, 2) - offset
            if present < header.nbytes:
                raise VqtrtError(
                    f"{name}: cut short: shape {header.shape} of {header.dtype} takes "
                    f"{header.nbytes} bytes, {present} are there; write it again"
                )
            order = "F" if header.fortran else "C"
            if mmap and header.nbytes:
                return np.memmap(stream, header.dtype, "r", offset, header.shape, order)  # type: ignore[call-overload, no-any-return]
            stream.seek(offset)
            return read_data(stream, header, name)
    except OSError as error:
        raise VqtrtError(f"{name}: cannot be read ({error.strerror or error})") from error


def read_header(stream: IO[bytes], name: str) -> Header:
    """Parse and check all that precedes the data; the stream is left where the data begins."""
    start = stream.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY":
        raise VqtrtError(f"{name}: not a .npy file; write it with numpy.save")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise VqtrtError(f"{name}: .npy version {version[0]}.{version[1]} is unknown; save it anew")
    field = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(field, "little")
    if not 0 < length <= MAX_HEADER:
        raise VqtrtError(f"{name}: a header of {length} bytes, over {MAX_HEADER}; save it anew")
    text = stream.read(length)
    try:
        if len(text) < length:
            raise ValueError("cut short")
        # The limit is on what a plain array needs: literal_eval is slow on nested nonsense.
        info = ast.literal_eval(text.decode("utf-8" if version == (3, 0) else "latin-1").strip())
        descr, shape, fortran = info["descr"], info["shape"], info["fortran_order"]
        if not isinstance(fortran, bool) or not isinstance(shape, tuple) or len(shape) > 32:
            raise ValueError("shape or order of the wrong type")
        if not all(type(n) is int and 0 <= n < 2**48 for n in shape):
            raise ValueError(f"shape {shape}")
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise VqtrtError(
            f"{name}: damaged .npy header ({printable(error)}); save it anew"
        ) from error
    if not isinstance(descr, str) or not _PLAIN_DTYPE.fullmatch(descr):
        raise VqtrtError(f"{name}: dtype {printable(descr)[:40]!r} is not read; save plain numbers")
    dtype = np.dtype(descr)
    return Header(dtype, shape, fortran, math.prod(shape) * dtype.itemsize)


def read_data(stream: IO[bytes], header: Header, name: str) -> NDArray[Any]:
    """The array whose header was read; `VqtrtError` if the stream ends too soon."""
    flat = np.empty(math.prod(header.shape), header.dtype)
    view, filled = memoryview(flat.view(np.uint8)), 0  # type: ignore[arg-type]
    while filled < header.nbytes:
        chunk = stream.read(min(1 << 20, header.nbytes - filled))
        if not chunk:
            raise VqtrtError(f"{name}: ends after {filled} of {header.nbytes} bytes; write it anew")
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


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
