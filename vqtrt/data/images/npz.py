"""Images in an array file, and the labels beside them in a `.npz`: which array is which.

Notable: no array is taken for images by guess. It is the one that the user names
(`file.npz:train_images`), or whose name says so, or the only one that can be images; else the error
lists what there is.
"""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.images.arrays import (
    MAX_NPZ_BYTES,
    SHAPES,
    ArrayImages,
    check_images,
)
from vqtrt.data.npy import Header, open_npy, read_data, read_header
from vqtrt.errors import VqtrtError
from vqtrt.system.files import open_file
from vqtrt.system.names import brief, printable

_IMAGE_KEYS = ("images", "x", "data", "arr_0")
"""Names of the one array of images, the first first."""
_SPLIT_KEYS = {
    "train": ("train_images", "x_train", "X_train", "images_train", "train_data"),
    "test": ("test_images", "x_test", "X_test", "images_test", "test_data"),
}
"""Names of the parts of a data set (MedMNIST, Keras)."""
_LABELS = (
    ("images", "labels"),
    ("image", "label"),
    ("data", "labels"),
    ("x", "y"),
    ("X", "y"),
    ("arr_0", "arr_1"),  # samples of guided diffusion (ADM)
)
"""What is replaced in the name of an array of images to get that of its labels."""
_SPARE_LABELS = ("labels", "y")
"""Names of labels beside the only array of images."""
_PLANAR = "data"
"""The array whose flat rows are red, then green, then blue: CIFAR and downsampled ImageNet."""
_PLANAR_SIDES = (8, 16, 32, 64)
_GRAY_SIDES = (28,)
_MOST_ARRAYS = 1000
_LISTED = 20
_COMPARED = 64


class _Array(NamedTuple):
    """An array of an archive."""

    member: zipfile.ZipInfo
    header: Header | None
    """None for what is not plain numbers."""

    def __str__(self) -> str:
        if self.header is None:
            return "not plain numbers"
        return f"{self.header.dtype} {self.header.shape}"


def open_array_images(path: Path, key: str = "", split: str = "all") -> ArrayImages:
    """Images of a `.npy`, or of a `.npz` with labels if it has them.

    In a `.npz` the images are the array `key`; without one, for the splits `train` and `test` the
    array of that part (`train_images`, `x_train`); else the first of `images`, `x`, `data`,
    `arr_0`, or the only array that can be images. Labels are those beside them (`train_labels`,
    `y_train`, `labels`, `arr_1`), as they are in the file. Rows of 784 bytes are gray, 28x28; those
    of `data` may be of 3·S² bytes for S of 8, 16, 32 or 64, one color after the other.

    Raises `VqtrtError`; its message lists the arrays where none can be told for the images.
    """
    if path.suffix.lower() == ".npz":
        return _open_npz(path, key, split)
    if key:
        raise VqtrtError(
            f"{printable(path)}:{printable(key)}: an .npy has one array; leave the name out"
        )
    return ArrayImages(open_npy(path), stem=path.name)


def _open_npz(path: Path, key: str, split: str) -> ArrayImages:
    name = printable(path)
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            arrays = {n: _Array(m, h) for n, m, h in _arrays(archive, name)}
            chosen = _chosen(name, arrays, key, split)
            header = _header(archive, arrays[chosen].member, name)
            labels = _labels_beside(chosen, arrays)
            total = sum(_declared(arrays[k]) for k in (chosen, labels) if k is not None)
            if total > MAX_NPZ_BYTES:
                raise VqtrtError(f"{name}: declares {total} bytes; save the images as .npy instead")
            check_images(f"{name}: {printable(chosen)}", header.dtype, _image_shape(chosen, header))
            images = _read(archive, arrays[chosen].member, name)
            found = None if labels is None else _read(archive, arrays[labels].member, name)
    except VqtrtError:
        raise
    except OSError as error:
        raise VqtrtError(f"{name}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # zipfile and its decompressors raise half a dozen types
        reason = printable(error) or type(error).__name__
        raise VqtrtError(f"{name}: not an .npz that can be read ({reason})") from error
    # Another array of the same archive is another data set: its items have other names.
    stem = path.name if chosen == _default(arrays) else f"{path.name}:{chosen}"
    return ArrayImages(_unflattened(name, chosen, images), found, stem=stem)


def _arrays(
    archive: zipfile.ZipFile, name: str
) -> Iterator[tuple[str, zipfile.ZipInfo, Header | None]]:
    """Names, members and headers of all arrays."""
    members = archive.infolist()
    if len(members) > _MOST_ARRAYS:
        raise VqtrtError(f"{name}: holds {len(members)} arrays; {_MOST_ARRAYS} at most are read")
    for member in members:
        try:
            header = _header(archive, member, name)
        except Exception:  # one that is not wanted does no harm; one that is fails again
            header = None
        yield member.filename.removesuffix(".npy"), member, header


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Header:
    """The header of one array, checked against the size that the archive declares."""
    with archive.open(member) as stream:
        header = read_header(stream, f"{name}: {printable(member.filename)}")
        if member.file_size - stream.tell() < header.nbytes:
            raise VqtrtError(f"{name}: {printable(member.filename)} is cut short; write it again")
    return header


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> NDArray[Any]:
    _header(archive, member, name)
    with archive.open(member) as stream:
        array = read_data(stream, read_header(stream, name), name)
        if stream.read(1):  # at the end, zipfile checks the CRC
            raise VqtrtError(f"{name}: data after an array's end; write it again")
    return array


def _shape(array: _Array) -> tuple[int, ...]:
    return () if array.header is None else array.header.shape


def _declared(array: _Array) -> int:
    return 0 if array.header is None else array.header.nbytes


def _default(arrays: dict[str, _Array]) -> str | None:
    """The array that is meant where nothing says which; None where several may be."""
    if found := next((name for name in _IMAGE_KEYS if name in arrays), None):
        return found
    fitting = [name for name, array in arrays.items() if _may_be_images(name, array)]
    # Of four axes: masks beside images have three.
    full = [name for name in fitting if len(_shape(arrays[name])) == 4]
    if not fitting:
        # The only one that has their shape, to say what is wrong with it.
        full = [name for name, array in arrays.items() if len(_shape(array)) == 4]
    return next((found[0] for found in (full, fitting) if len(found) == 1), None)


def _chosen(name: str, arrays: dict[str, _Array], key: str, split: str) -> str:
    """The array of images, or an error that lists all arrays."""
    if key and key not in arrays:
        raise VqtrtError(f"{name}: no array named {printable(key)}; it holds {_listed(arrays)}")
    parts = _SPLIT_KEYS.get(split, ())
    chosen = key or next((part for part in parts if part in arrays), None) or _default(arrays)
    if chosen is None:
        fitting = [n for n, array in arrays.items() if _may_be_images(n, array)]
        example = printable(next(iter(fitting or arrays), "images"))
        raise VqtrtError(
            f"{name}: {len(fitting)} arrays may be the images, uint8 {SHAPES}; it holds "
            f"{_listed(arrays)}; name one, as in {name}:{example}"
        )
    return chosen


def _listed(arrays: dict[str, _Array]) -> str:
    told = [f"{brief(name)} {array}" for name, array in list(arrays.items())[:_LISTED]]
    more = f", and {len(arrays) - _LISTED} more" if len(arrays) > _LISTED else ""
    return (", ".join(told) or "nothing") + more


def _may_be_images(name: str, array: _Array) -> bool:
    if array.header is None or array.header.dtype != np.uint8:
        return False
    try:
        check_images(name, array.header.dtype, _image_shape(name, array.header))
    except VqtrtError:
        return False
    return True


def _labels_beside(images: str, arrays: dict[str, _Array]) -> str | None:
    """The array of labels of an array of images: N integers."""
    count = _shape(arrays[images])[:1]
    wanted = [images.replace(old, new) for old, new in _LABELS if old in images]
    if images == _default(arrays):
        wanted += _SPARE_LABELS
    for name in wanted:
        header = arrays[name].header if name in arrays else None
        if header is None or name == images:
            continue
        # Several labels an image are no class; and arr_1 may be anything.
        single = len(header.shape) == 1 or math.prod(header.shape[1:]) == 1
        if name in _SPARE_LABELS and single:
            return name
        if header.dtype.kind in "iu" and single and header.shape[:1] == count:
            return name
    return None


def _side(name: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Side and channels of flat images (N, bytes), where they are known."""
    if len(shape) != 2:
        return None
    for side in _GRAY_SIDES:
        if shape[1] == side * side:
            return side, 1
    for side in _PLANAR_SIDES:
        if name == _PLANAR and shape[1] == 3 * side * side:
            return side, 3
    return None


def _image_shape(name: str, header: Header) -> tuple[int, ...]:
    """The shape of an array as images (N, H, W[, 3])."""
    flat = _side(name, header.shape)
    if flat is None:
        return header.shape
    side, channels = flat
    return (header.shape[0], side, side, channels)


def _unflattened(path: str, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Images (N, H, W, 3) of flat rows; other arrays as they are."""
    flat = _side(name, array.shape)
    if flat is None:
        return array
    side, channels = flat
    planes = array.reshape(-1, channels, side, side)
    if channels == 3:
        few = array[:_COMPARED]
        planar = few.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
        # In pictures, pixels are like their neighbours.
        if 2 * _roughness(few.reshape(-1, side, side, 3)) < _roughness(planar):
            raise VqtrtError(
                f"{path}: the rows of {name} look like pixel after pixel, not color after "
                f"color; save them as (N, {side}, {side}, 3)"
            )
    return planes.transpose(0, 2, 3, 1)


def _roughness(images: NDArray[Any]) -> float:
    """Mean difference of neighbours in images (N, H, W, 3)."""
    values = images.astype(np.int16)
    return float(np.abs(np.diff(values, axis=1)).mean() + np.abs(np.diff(values, axis=2)).mean())
