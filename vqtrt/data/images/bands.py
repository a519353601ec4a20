"""Extra bands of an image: transparency where the file says so, and else none of the picture.

Pillow takes the fourth band of some files for transparency that do not say that it is (near
infrared, depth, a mask). Formats whose fourth band is always transparency (PNG, WebP, GIF, QOI)
are left alone.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

from vqtrt.errors import ImageError

_COLORS = {"RGBA": "RGB", "RGBa": "RGB", "LA": "L", "La": "L", "PA": "RGB"}
"""Modes with transparency, and those without."""
# ExtraSamples: 1 and 2 are transparency (TIFF 6.0, page 31); 999 is what Corel Draw writes for it.
_EXTRA_SAMPLES, _TIFF_ALPHA = 338, (1, 2, 999)
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_BOXES = 1 << 16
"""Bytes that are read of a JPEG 2000 header."""


def alpha_is_declared(image: Image.Image, file: BinaryIO) -> bool:
    """Whether the last band of an opened image is transparency, by what its file says.

    Called before the pixels are read. Raises `ImageError` if the file says nothing of its bands,
    or says that they are what Pillow does not take them for.
    """
    if image.mode not in _COLORS:
        return True
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        extra = image.tag_v2.get(_EXTRA_SAMPLES, ())
        return bool(extra) and extra[0] in _TIFF_ALPHA
    if image.format == "JPEG2000":
        at = file.tell()
        file.seek(0)
        header = file.read(_MOST_BOXES)
        file.seek(at)
        return _jp2_alpha(header, len(image.getbands()))
    return True


def without_extra(image: Image.Image) -> Image.Image:
    """The colors of an image alone."""
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert(_COLORS[image.mode])


def _jp2_alpha(data: bytes, bands: int) -> bool:
    """Whether a JPEG 2000 file has a channel of opacity (ISO 15444-1, annex I.5.3.6)."""
    if data.startswith(b"\xff\x4f\xff\x51"):
        raise ImageError(
            f"a JPEG 2000 codestream of {bands} bands, which does not say what they are; "
            "save it as .jp2 or PNG"
        )
    found = False
    for kind, content in _boxes(next((c for k, c in _boxes(data) if k == b"jp2h"), b"")):
        if kind == b"colr" and content[:1] == b"\2" and content[19:23] == b"CMYK":
            raise ImageError("CMYK by its color profile; save it as RGB")
        if kind == b"cdef":
            count = min(int.from_bytes(content[:2], "big"), (len(content) - 2) // 6)
            types = [struct.unpack_from(">H", content, 4 + 6 * i)[0] for i in range(count)]
            found = 1 in types or 2 in types
    return found


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes of a JPEG 2000 file, or of one of its boxes."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1:
            length, start = int.from_bytes(data[start : start + 8], "big"), at + 16
        end = at + length if length else len(data)  # 0: up to the end
        yield kind, data[start:end]
        if end <= at:
            return
        at = end


def tiff_kind(file: BinaryIO) -> str | None:
    """What a TIFF that Pillow does not read holds, in words; None for what is no TIFF."""
    file.seek(0)
    head = file.read(16)
    if not head.startswith(_TIFF_MARKS):
        return None
    try:
        table = TiffImagePlugin.ImageFileDirectory_v2(head if b"+" in head[:4] else head[:8])
        file.seek(table.next)
        table.load(file)
        bands, bits = table.get(277, 1), table.get(258, (1,))
        colors = table.get(262, "unknown")
    except Exception:  # as many kinds as a damaged file has ways to be damaged
        return "a damaged TIFF"
    extra = ", ".join(map(str, table.get(_EXTRA_SAMPLES, ())))
    extra = f", extra samples {extra}" if extra else ""
    return (
        f"a TIFF of {bands} bands of {bits[0]} bits, photometric {colors}{extra}, which is not "
        "read: save it as gray or RGB"
    )
