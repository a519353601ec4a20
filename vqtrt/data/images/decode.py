"""An image file becomes RGB bytes, the way a viewer shows it.

Notable:
- Nothing is allocated for an image before its claimed size is checked.
- A small JPEG without EXIF takes a path with as little Python as possible: at 32x32 pixels the
  interpreter, not the JPEG decoder, sets the speed, and Pillow's header parser is half of it.
- Only formats with a signature are tried, and none that runs a program (EPS calls Ghostscript).
- Pillow warns about odd EXIF and large images; whatever may warn runs under `_quiet`.
"""

import errno
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from vqtrt.data.foreign import foreign_bytes
from vqtrt.data.images.bands import alpha_is_declared, tiff_kind, without_extra
from vqtrt.data.images.png import SIGNATURE, only_pixels, only_pixels_of
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.data.source import Stored
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.system.files import open_file, read_file
from vqtrt.system.names import printable

MAX_PIXELS = 89_478_485
"""Largest width x height that is decoded: the level at which Pillow warns of a bomb."""

_IN_MEMORY = 1 << 24  # bytes; a larger file is read as it is decoded, for it may be no image at all
_FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "QOI", "SGI")
_SMALL = 1 << 16  # bytes of a JPEG, below which Python's share of the time matters
_SMALL_PIXELS = 256 * 256  # and above which libjpeg may be asked to shrink
_SEGMENT, _FRAME = struct.Struct(">HH"), struct.Struct(">BHHB")
_FRAMES = frozenset((0xFFC0, 0xFFC1, 0xFFC2))
_SKIPPED = frozenset((*range(0xFFE0, 0xFFF0), 0xFFFE, 0xFFDB, 0xFFC4, 0xFFDD))
_APP1, _SCAN = 0xFFE1, 0xFFDA
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_warnings_lock = threading.Lock()


def decode_image(file: Path | BinaryIO, preprocessing: Preprocessing | None = None) -> Images:
    """Read JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000, AVIF, ICO, QOI or SGI; first frame.

    Returns (H, W, 3) uint8: EXIF orientation applied, transparency over white, 16-bit gray divided
    by 257, CMYK by its embedded profile if there is one. Other profiles are not applied, as in
    every common training pipeline. Extra bands that are no transparency are left out.
    `preprocessing` gives its own size.

    Safe to call from several threads. Raises `ImageError`, which opens with the file's full path,
    for anything that is wrong with the file, be it missing, no regular file, no image, damaged or
    too large.
    """
    try:
        if not isinstance(file, Path):
            return _decode(file.read(), preprocessing)
        try:
            data = read_file(file, _IN_MEMORY)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            with open_file(file) as stream:
                return _decode(stream, preprocessing)
        return _decode(data, preprocessing)
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        name = printable(file if isinstance(file, Path) else getattr(file, "name", "image"))
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            # Not the image's fault: passing over it would pass over all that follow.
            raise VqtrtError(f"{name}: too many open files; raise `ulimit -n`") from error
        raise ImageError(
            f"{name}: not an image that can be read ({_reason(error)}); replace or remove it"
        ) from error


def decode_stored(stored: Stored, preprocessing: Preprocessing | None = None) -> Images:
    """`decode_image` of a file that lies in another one."""
    try:
        file = io.BytesIO(stored.read())
    except OSError as error:
        raise ImageError(f"{printable(stored)}: {error.strerror}; leave it out") from error
    file.name = str(stored)
    return decode_image(file, preprocessing)


def fit(image: Image.Image, preprocessing: Preprocessing | None) -> Images:
    """An RGB image as (H, W, 3) uint8, preprocessed if asked.

    Raises `ImageError` if the resize before the crop would be enormous (a 1 x 1,000,000 image).
    """
    if preprocessing is None:
        return np.asarray(image, dtype=np.uint8)
    if image.size != (preprocessing.width, preprocessing.height):
        width, height = preprocessing.scaled_size(*image.size)
        if width * height > max(MAX_PIXELS, 4 * preprocessing.width * preprocessing.height):
            raise ImageError(f"too elongated to resize: {image.width} x {image.height} pixels")
    return preprocessing(image)


def _decode(data: bytes | BinaryIO, preprocessing: Preprocessing | None) -> Images:
    if isinstance(data, bytes):
        # Image.open would warn of a bomb, and try each plugin's start-up; the class does neither.
        if data.startswith(b"\xff\xd8\xff") and not _may_have_exif(data):
            if len(data) <= _SMALL and (plain := _small_jpeg(data)):
                return fit(plain, preprocessing)
            image: Image.Image = JpegImageFile(io.BytesIO(data))
            _check_size(image)
            return _finish(image, 1, preprocessing)
        if not data:
            raise ImageError("the file is empty")
        if data.startswith(SIGNATURE):
            data = only_pixels(data)
        data_stream: BinaryIO = io.BytesIO(data)
    else:
        data_stream = data
    with _quiet():
        head = data_stream.read(len(SIGNATURE))
        data_stream.seek(0)
        if head.startswith(b"\xff\xd8\xff"):
            image = JpegImageFile(data_stream)
        else:
            if head == SIGNATURE and not isinstance(data, bytes):
                data_stream = only_pixels_of(data_stream)
            image = _open(data_stream)
        _check_size(image)
        declared = alpha_is_declared(image, data_stream)
        orientation = _orientation(image) if image.format == "JPEG" else 1
    if image.format == "JPEG":
        return _finish(image, orientation, preprocessing)
    # Decoding these three never warns, so threads may do it at once.
    with nullcontext() if image.format in ("PNG", "WEBP", "BMP") else _quiet():
        image.load()
    with _quiet():
        orientation = _orientation(image)  # a PNG may hold its EXIF after its pixels
    return _finish(image if declared else without_extra(image), orientation, preprocessing)


def _open(file: BinaryIO) -> Image.Image:
    """A file that is no JPEG, as one of the formats that are read."""
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        file.seek(0)
        if found := foreign_bytes(file.read(300)):
            raise ImageError(f"it is {found.name}: {found.advice}") from None
        raise ImageError(tiff_kind(file) or "no known image format") from None


def _may_have_exif(data: bytes) -> bool:
    """Whether a JPEG has EXIF before its pixels, or segments that are not understood here.

    Segment by segment: a search through the pixels takes as long as a small picture's decoding.
    """
    at = 2
    while at + 4 <= len(data):
        marker, length = _SEGMENT.unpack_from(data, at)
        if marker == _SCAN:
            return False
        if marker not in _FRAMES and marker not in _SKIPPED:
            return True
        if marker == _APP1 and data.startswith(b"Exif\0\0", at + 4):
            return True
        at += 2 + length
    return True


def _small_jpeg(data: bytes) -> Image.Image | None:
    """Hand a JPEG of 8 bits and 3 channels straight to Pillow's decoder; None: take the long way.

    What Pillow reads besides the size (densities, tables, profiles) has no part in the pixels.
    """
    at = 2
    while at + 10 <= len(data):
        marker, length = _SEGMENT.unpack_from(data, at)
        if marker in _FRAMES:
            precision, height, width, channels = _FRAME.unpack_from(data, at + 4)
            if precision != 8 or channels != 3 or not 0 < width * height <= _SMALL_PIXELS:
                return None
            try:
                return Image.frombytes("RGB", (width, height), data, "jpeg", "RGB", "")
            except (ValueError, OSError):
                return None  # the long way says what is wrong
        if marker not in _SKIPPED:
            return None
        at += 2 + length
    return None


def _finish(image: Image.Image, orientation: int, preprocessing: Preprocessing | None) -> Images:
    """Decode what is left to decode, make it upright RGB, and fit it."""
    if preprocessing is not None and isinstance(image, JpegImageFile):
        _draft(image, orientation, preprocessing)
    if image.mode != "RGB" or "transparency" in image.info:
        image = _to_rgb(image)
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    return fit(image, preprocessing)


def _draft(image: JpegImageFile, orientation: int, preprocessing: Preprocessing) -> None:
    """Let libjpeg shrink by 2, 4 or 8 while it decodes, to no less than twice the final size."""
    swapped = orientation >= 5
    width, height = image.size[::-1] if swapped else image.size
    width, height = preprocessing.scaled_size(width, height)
    wanted = (2 * height, 2 * width) if swapped else (2 * width, 2 * height)
    image.draft(None, wanted)  # None keeps the mode, CMYK included


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range: save as 8 or 16 bit")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        gray = ((np.clip(values, 0, 65535) + 128) // 257).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            gray[values == clear] = 255
        return Image.fromarray(gray).convert("RGB")
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        color = image.convert("RGBA")
        result = Image.new("RGB", image.size, (255, 255, 255))
        result.paste(color, mask=color.getchannel("A"))
        return result
    return image.convert("RGB")


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    if profile := image.info.get("icc_profile"):
        from PIL import ImageCms

        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, ImportError, OSError, ValueError):
            converted = None  # a damaged profile: show it as a file without one
        if converted is not None:
            return converted
    return image.convert("RGB")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels, more than the {MAX_PIXELS} allowed")
    if width < 1 or height < 1:
        raise ImageError("it has no pixels")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF does not make the picture unreadable
        return 1
    return value if isinstance(value, int) else 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings; the lock, because the filters belong to all threads."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):  # at twice the limit, on opening
        return f"more than the {MAX_PIXELS} pixels allowed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(error) or type(error).__name__
