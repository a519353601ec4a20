import contextlib
import errno
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from vqtrt.data.images.decode import decode_image
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.system.names import printable


@pytest.fixture
def picture() -> Image.Image:
    """Smooth, asymmetric, 48 x 36."""
    y, x = np.mgrid[0:36, 0:48]
    return Image.fromarray(np.stack([x * 5, y * 7, (x + y) * 3], -1).astype(np.uint8))


def saved(tmp_path: Path, image: Image.Image, name: str, **options) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm", "jp2"])
def test_lossless_rgb_is_exact(tmp_path, picture, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    result = decode_image(saved(tmp_path, picture, f"a.{suffix}", **options))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.asarray(picture))


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"progressive": True},
        {"subsampling": 0},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
        {"comment": b"hello", "icc_profile": b"x" * 500},
    ],
)
def test_short_way_for_jpeg_equals_pillow(tmp_path, picture, options):
    path = saved(tmp_path, picture, "a.jpg", **options)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(decode_image(path), expected)
    with path.open("rb") as stream:
        np.testing.assert_array_equal(decode_image(stream), expected)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_gray_becomes_three_equal_channels(tmp_path, picture, suffix):
    result = decode_image(saved(tmp_path, picture.convert("L"), f"a.{suffix}"))
    assert result.shape == (36, 48, 3)
    assert (result == result[..., :1]).all()


def test_one_bit(tmp_path):
    mask = np.eye(9, dtype=bool)
    result = decode_image(saved(tmp_path, Image.fromarray(mask), "a.png"))
    np.testing.assert_array_equal(result[..., 1], mask * 255)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_gray_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257], [65278, 32768, 40000, 65535]], np.uint16)
    result = decode_image(saved(tmp_path, Image.fromarray(values), f"a.{suffix}"))
    np.testing.assert_array_equal(result[..., 0], np.round(values / 257))
    assert result[0, :, 0].tolist() == [0, 0, 1, 1]


def test_32_bit_gray_is_scaled(tmp_path):
    values = np.array([[-5, 0, 2570, 65535, 1_000_000]], np.int32)
    result = decode_image(saved(tmp_path, Image.fromarray(values), "a.tiff"))
    assert result[0, :, 2].tolist() == [0, 0, 10, 255, 255]


def test_float_is_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.zeros((4, 4), np.float32)), "a.tiff")
    with pytest.raises(ImageError, match="floating-point"):
        decode_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_over_white(tmp_path, mode):
    image = Image.new(mode, (3, 1), (100, 100, 100, 255) if mode == "RGBA" else (100, 255))
    alpha = image.getchannel("A")
    alpha.putdata([255, 0, 128])
    image.putalpha(alpha)
    result = decode_image(saved(tmp_path, image, "a.png"))
    np.testing.assert_allclose(result[0, :, 1].astype(int), [100, 255, 177], atol=1)


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert decode_image(saved(tmp_path, image, "a.png")).tolist() == [
        [[10, 20, 30], [200, 100, 50]]
    ]
    for name, transparency in (("b.gif", 1), ("c.png", 1), ("d.png", b"\xff\x00")):
        path = saved(tmp_path, image, name, transparency=transparency)
        assert decode_image(path).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_transparent_color_of_an_rgb_png(tmp_path):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    path = saved(tmp_path, image, "a.png", transparency=(9, 9, 9))
    assert decode_image(path).tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_cmyk_and_ycbcr(tmp_path, picture):
    for name, options in (("a.jpg", {"quality": 95}), ("a.tiff", {})):
        cmyk = decode_image(saved(tmp_path, picture.convert("CMYK"), name, **options))
        assert abs(cmyk.astype(int) - np.asarray(picture)).mean() < 3
    ycbcr = decode_image(saved(tmp_path, picture.convert("YCbCr"), "b.tiff"))
    assert abs(ycbcr.astype(int) - np.asarray(picture)).max() <= 3


def test_cmyk_profile_is_used_and_a_damaged_one_is_not(tmp_path, picture, monkeypatch):
    cmyk = picture.convert("CMYK")
    plain = decode_image(saved(tmp_path, cmyk, "plain.tiff"))
    path = saved(tmp_path, cmyk, "bad.tiff", icc_profile=b"nonsense" * 20)
    np.testing.assert_array_equal(decode_image(path), plain)
    # No CMYK profile is free to ship: check that the conversion is asked for, and its result used.
    monkeypatch.setattr(ImageCms, "ImageCmsProfile", lambda stream: stream.read())
    monkeypatch.setattr(
        ImageCms, "profileToProfile", lambda im, src, dst, outputMode: Image.new("RGB", im.size)
    )
    assert not decode_image(path).any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation(tmp_path, picture, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, picture, f"a.{suffix}", exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    result = decode_image(path)
    assert result.shape == ((48, 36, 3) if orientation >= 5 else (36, 48, 3))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_draft_shrinks_early_and_changes_little(tmp_path, picture, orientation, mode, monkeypatch):
    big = picture.resize((960, 720), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, big, "a.jpg", exif=exif, quality=95)
    preprocessing = Preprocessing(height=64, width=96)
    sizes = []
    original = Preprocessing.__call__
    monkeypatch.setattr(
        Preprocessing, "__call__", lambda self, im: (sizes.append(im.size), original(self, im))[1]
    )
    result = decode_image(path, preprocessing)
    with Image.open(path) as image:
        expected = original(preprocessing, ImageOps.exif_transpose(image).convert("RGB"))
    assert sizes == [(240, 180)] if orientation == 1 else sizes == [(360, 480)]
    assert all(
        a >= 2 * b for a, b in zip(sizes[0], preprocessing.scaled_size(*sizes[0]), strict=True)
    )
    assert abs(result.astype(int) - expected).mean() < 3


def test_odd_exif_does_not_warn(tmp_path, picture):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\0\0\xff\xff\0\0" + b"\xff" * 40
    path = saved(tmp_path, picture, "a.jpg", exif=exif)
    assert decode_image(path).shape == (36, 48, 3)


@pytest.mark.parametrize("side", [9_500, 12_000, 50_000])
def test_bomb_is_refused_before_anything_is_allocated(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(ImageError, match="more than the 89478485 ") as caught:
        decode_image(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_jpeg_bomb(tmp_path, picture):
    path = saved(tmp_path, picture, "a.jpg")
    small = struct.pack(">HH", 36, 48)
    path.write_bytes(path.read_bytes().replace(small, struct.pack(">HH", 65000, 65000), 1))
    with pytest.raises(ImageError, match="65000 x 65000 pixels"):
        decode_image(path)


def test_too_elongated_to_resize(tmp_path):
    path = saved(tmp_path, Image.new("L", (1_000_000, 1)), "a.png")
    assert decode_image(path).shape == (1, 1_000_000, 3)
    with pytest.raises(ImageError, match="elongated"):
        decode_image(path, Preprocessing(height=32, width=32))


def test_damaged_files(tmp_path, picture):
    jpeg = saved(tmp_path, picture, "good.jpg").read_bytes()
    png = saved(tmp_path, picture, "good.png").read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(tmp_path, picture, "turned.jpg", exif=exif).read_bytes()
    size = struct.pack(">HH", 36, 48)
    cases = {
        "truncated.jpg": jpeg[: len(jpeg) * 2 // 3],
        "turned.jpg": turned[: len(turned) * 2 // 3],
        "head.jpg": jpeg[:40],
        "magic.jpg": jpeg[:3],
        "truncated.png": png[: len(png) // 2],
        "text.png": b"this is a text\nof two lines\n",
        "empty.png": b"",
        "zero.jpg": jpeg.replace(size, b"\0\0\0\0", 1),
        "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ImageError) as caught:
            decode_image(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: not an image that can be read (")
        assert "\n" not in message
        assert "0x" not in message


def test_random_damage_never_escapes_as_another_error(tmp_path, picture):
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for suffix in ("jpg", "png", "gif", "tiff", "webp", "bmp"):
        good = saved(tmp_path, picture, f"good.{suffix}").read_bytes()
        for _ in range(25):
            data = bytearray(good)
            for at in rng.integers(0, len(data), 6):
                data[at] = rng.integers(256)
            path.write_bytes(data)
            with contextlib.suppress(ImageError):
                assert decode_image(path, Preprocessing(height=8, width=8)).shape == (8, 8, 3)


def test_missing_and_folder(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        decode_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="directory"):
        decode_image(tmp_path)


class Failing(io.BytesIO):
    name = "disk.jpg"

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(self.number, os.strerror(self.number))


def test_disk_errors():
    for number in (errno.EIO, errno.EACCES):
        with pytest.raises(ImageError, match=f"disk.jpg.*{os.strerror(number)}"):
            decode_image(Failing(number))
    with pytest.raises(VqtrtError, match="ulimit") as caught:
        decode_image(Failing(errno.EMFILE))
    assert not isinstance(caught.value, ImageError)


def test_large_file_is_read_as_it_is_decoded(tmp_path, picture, monkeypatch):
    monkeypatch.setattr("vqtrt.data.images.decode._IN_MEMORY", 10)
    for name in ("a.png", "a.jpg"):
        path = saved(tmp_path, picture, name)
        expected = np.asarray(Image.open(path))
        np.testing.assert_array_equal(decode_image(path), expected)


def test_threads_agree_and_leave_warning_filters_alone(tmp_path, picture):
    before = list(warnings.filters)
    paths = [saved(tmp_path, picture, f"a.{s}") for s in ("png", "gif", "jpg", "webp", "tiff")] * 20
    alone = [decode_image(path) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode_image, paths))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert warnings.filters == before


def test_shown_escapes():
    assert printable("a\nb\x1b[0m\udcff") == "a\\nb\\x1b[0m\\udcff"
    assert printable(Path("bücher/é.png")) == "bücher/é.png"


def with_segments(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments at its beginning."""
    more = b"".join(
        bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body
        for marker, body in segments
    )
    return data[:2] + more + data[2:]


@pytest.mark.parametrize("size", [(16, 24), (700, 500)])
def test_exif_is_found_in_any_of_the_first_segments(tmp_path, size):
    """And nowhere else: not in a comment, not in the pixels."""
    plain, turned = io.BytesIO(), io.BytesIO()
    image = Image.effect_noise(size, 60).convert("RGB")
    image.save(plain, "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(turned, "JPEG", exif=exif)
    body = turned.getvalue()
    at = body.index(b"Exif\0\0")
    exif_body = body[at : at - 2 + int.from_bytes(body[at - 2 : at], "big")]
    xmp, comment = (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), (0xFE, exif_body)
    upright = decode_image(io.BytesIO(plain.getvalue()))
    for segments in ([comment], [xmp], [xmp, comment]):
        found = decode_image(io.BytesIO(with_segments(plain.getvalue(), *segments)))
        np.testing.assert_array_equal(found, upright)
    tail = plain.getvalue() + b"Exif\0\0" + exif_body
    np.testing.assert_array_equal(decode_image(io.BytesIO(tail)), upright)
    for segments in ([(0xE1, exif_body)], [xmp, (0xE1, exif_body)], [comment, (0xE1, exif_body)]):
        found = decode_image(io.BytesIO(with_segments(plain.getvalue(), *segments)))
        np.testing.assert_array_equal(found, np.rot90(upright, -1))
