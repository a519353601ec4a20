import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from vqtrt.data.images.bands import tiff_kind
from vqtrt.data.images.decode import decode_image
from vqtrt.errors import ImageError


def write_tiff(
    path: Path,
    pixels: NDArray[np.unsignedinteger[Any]],
    photometric: int,
    extra: Sequence[int] | None,
) -> None:
    """(H, W, bands), one strip, without compression; `extra` are the ExtraSamples."""
    height, width, bands = pixels.shape
    entries = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [8 * pixels.itemsize] * bands),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [8]),
        (277, 3, [bands]),
        (278, 4, [height]),
        (279, 4, [pixels.nbytes]),
        *([(338, 3, list(extra))] if extra is not None else []),
    ]
    body = pixels.tobytes()
    body += bytes(len(body) % 2)
    table, beyond = b"", b""
    start = 8 + len(body) + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        data = struct.pack(f"<{len(values)}{'HI'[kind == 4]}", *values)
        if len(data) > 4:
            data, beyond = struct.pack("<I", start + len(beyond)), beyond + data
        table += struct.pack("<HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    path.write_bytes(head + body + struct.pack("<H", len(entries)) + table + bytes(4) + beyond)


def pixels(bands: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 4, bands), np.uint8)


@pytest.mark.parametrize(
    ("bands", "extra"),
    [(4, None), (4, [0]), (4, []), (5, [0, 0]), (6, [0, 0, 0])],
)
def test_extra_bands_of_a_tiff_are_left_out(
    tmp_path: Path, bands: int, extra: list[int] | None
) -> None:
    image = pixels(bands)
    write_tiff(tmp_path / "a.tiff", image, 2, extra)
    np.testing.assert_array_equal(decode_image(tmp_path / "a.tiff"), image[..., :3])


def test_extra_band_of_16_bits(tmp_path: Path) -> None:
    image = (pixels(4).astype(np.uint16) << 8).view(np.uint16)
    write_tiff(tmp_path / "a.tiff", image, 2, None)
    np.testing.assert_array_equal(decode_image(tmp_path / "a.tiff"), image[..., :3] >> 8)


@pytest.mark.parametrize("extra", [[2], [2, 0], [1], [999]])
def test_transparency_of_a_tiff_is_laid_over_white(tmp_path: Path, extra: list[int]) -> None:
    image = pixels(3 + len(extra))
    image[..., 3] = 0
    image[0, 0, 3] = 255
    write_tiff(tmp_path / "a.tiff", image, 2, extra)
    expected = np.full((5, 4, 3), 255, np.uint8)
    expected[0, 0] = image[0, 0, :3]
    np.testing.assert_array_equal(decode_image(tmp_path / "a.tiff"), expected)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_second_band_of_gray(tmp_path: Path, extra: int) -> None:
    image = pixels(2)
    image[..., 1] = [255, 0, 255, 0]
    write_tiff(tmp_path / "a.tiff", image, 1, [extra])
    expected = image[..., :1].repeat(3, -1)
    if extra:
        expected[:, 1::2] = 255
    np.testing.assert_array_equal(decode_image(tmp_path / "a.tiff"), expected)


@pytest.mark.parametrize(
    ("bands", "photometric", "extra", "message"),
    [
        (
            5,
            1,
            [0, 0, 0, 0],
            "a TIFF of 5 bands of 8 bits, photometric 1, extra samples 0, 0, 0, 0",
        ),
        (2, 1, None, "a TIFF of 2 bands of 8 bits, photometric 1, which"),
        (5, 2, [0, 2], "a TIFF of 5 bands of 8 bits, photometric 2, extra samples 0, 2"),
    ],
)
def test_bands_that_are_not_read_are_named(
    tmp_path: Path, bands: int, photometric: int, extra: list[int] | None, message: str
) -> None:
    write_tiff(tmp_path / "a.tiff", pixels(bands), photometric, extra)
    with pytest.raises(ImageError, match=f"{message}.*save it as gray or RGB"):
        decode_image(tmp_path / "a.tiff")


def jp2(mode: str, **options: object) -> bytes:
    image = Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(32, 32, 4)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG2000", irreversible=False, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_bands_of_jpeg_2000(tmp_path: Path, mode: str) -> None:
    path, data = tmp_path / "a.jp2", jp2(mode)
    image = Image.open(io.BytesIO(data))
    colors = np.asarray(image.convert("RGB"))
    path.write_bytes(data)
    over_white = decode_image(path)
    assert (over_white != colors).any()
    # The same file, whose last channel says that it is something else, or says nothing.
    at = data.index(b"cdef") + 4 + 2 + 6 * (len(image.getbands()) - 1) + 2
    for kind in (0, 65535):
        path.write_bytes(data[:at] + struct.pack(">H", kind) + data[at + 2 :])
        np.testing.assert_array_equal(decode_image(path), colors)
    path.write_bytes(data.replace(b"cdef", b"free"))
    np.testing.assert_array_equal(decode_image(path), colors)
    path.write_bytes(data[: at + 2] + data[at + 2 :].replace(b"\xff\x4f", b"\0\0", 1))
    with pytest.raises(ImageError, match="not an image that can be read"):
        decode_image(path)


def test_a_bare_codestream_does_not_say_what_its_bands_are(tmp_path: Path) -> None:
    path = tmp_path / "a.j2k"
    path.write_bytes(jp2("RGB", no_jp2=True))
    assert decode_image(path).shape == (32, 32, 3)
    path.write_bytes(jp2("RGBA", no_jp2=True))
    with pytest.raises(ImageError, match=r"codestream of 4 bands.*save it as \.jp2 or PNG"):
        decode_image(path)


def test_a_fourth_band_that_a_profile_calls_black(tmp_path: Path) -> None:
    data = jp2("RGBA")
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"CMYK"
    at = data.index(b"colr") - 4
    length = struct.unpack_from(">I", data, at)[0]
    colr = struct.pack(">I4s", 11 + len(profile), b"colr") + b"\2\0\0" + bytes(profile)
    head = data.index(b"jp2h") - 4
    size = struct.unpack_from(">I", data, head)[0] + len(colr) - length
    data = data[:at] + colr + data[at + length :]
    (tmp_path / "a.jp2").write_bytes(data[:head] + struct.pack(">I", size) + data[head + 4 :])
    with pytest.raises(ImageError, match="CMYK by its color profile; save it as RGB"):
        decode_image(tmp_path / "a.jp2")


def test_damaged_tables() -> None:
    assert tiff_kind(io.BytesIO(b"no tiff")) is None
    assert tiff_kind(io.BytesIO(b"II*\0\xff\xff\xff\xff")) == "a damaged TIFF"
