import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from doubles import picture
from PIL import Image, ImageOps, PngImagePlugin

from vqtrt.data.images import png
from vqtrt.data.images.decode import decode_image
from vqtrt.data.images.png import SIGNATURE, only_pixels, only_pixels_of
from vqtrt.errors import ImageError

BIG = b"x" * (3 << 20)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def plain(image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or picture(1, (40, 30))).save(file, "PNG", **options)
    return file.getvalue()


def with_chunks(*chunks: bytes, data: bytes | None = None, after: bool = False) -> bytes:
    """A PNG with chunks before its pixels, or after them."""
    data = data or plain()
    at = data.index(b"IEND" if after else b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


def itxt(keyword: bytes, text: bytes, *, compressed: bool) -> bytes:
    head = keyword + b"\0" + bytes([compressed, 0]) + b"en\0\0"
    return chunk(b"iTXt", head + (zlib.compress(text) if compressed else text))


LARGE = {
    "iTXt": itxt(b"workflow", BIG, compressed=True),
    "iTXt, plain": itxt(b"workflow", BIG, compressed=False),
    "zTXt": chunk(b"zTXt", b"prompt\0\0" + zlib.compress(BIG)),
    "tEXt": chunk(b"tEXt", b"prompt\0" + BIG),
    "many": b"".join(chunk(b"tEXt", b"k%d\0" % i + BIG) for i in range(5)),
    "iCCP": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3 << 20))),
    "eXIf": chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0" + BIG),
    "private": chunk(b"prVt", BIG),
    "damaged": chunk(b"zTXt", b"prompt\0\0" + b"no zlib"),
    "damaged sum": chunk(b"tEXt", b"prompt\0text")[:-1] + b"?",
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_large_side_chunks_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(LARGE[name], after=after))
    expected = np.asarray(picture(1, (40, 30)))
    np.testing.assert_array_equal(decode_image(path), expected)
    monkeypatch.setattr("vqtrt.data.images.decode._IN_MEMORY", 10)  # read as it is decoded
    np.testing.assert_array_equal(decode_image(path), expected)
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 20  # a limit of the whole process


def test_a_bomb_in_a_text_takes_no_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(1 << 20)) for _ in range(96)) + packer.flush()
    bombs = [
        chunk(b"zTXt", b"prompt\0\0" + zeros),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zeros),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros),
        chunk(b"iCCP", b"icc\0\0" + zeros),
    ]
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(*bombs))
    tracemalloc.start()
    try:
        decode_image(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * png.MAX_SIDE_BYTES  # of 384 MiB


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def raw_profile(orientation: int) -> bytes:
    """As ImageMagick writes EXIF."""
    data = exif(orientation)
    return b"\nexif\n%8d\n" % len(data) + data.hex().encode() + b"\n"


XMP = b'<x:xmpmeta><rdf tiff:Orientation="6"/>' + BIG[: 2 << 20] + b"</x:xmpmeta>"
TURNED = {
    "eXIf": chunk(b"eXIf", exif(6)[6:]),
    "xmp": itxt(b"XML:com.adobe.xmp", XMP[:40], compressed=False),
    "xmp, large": itxt(b"XML:com.adobe.xmp", XMP, compressed=True),
    "raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(6))),
    "raw profile, plain": chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(6)),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", TURNED)
def test_what_turns_a_picture_stays(tmp_path: Path, name: str, after: bool) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(TURNED[name], LARGE["zTXt"], after=after))
    expected = np.asarray(picture(1, (40, 30)).transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(decode_image(path), expected)


def animation() -> bytes:
    return plain(save_all=True, append_images=[picture(2, (40, 30))], duration=100)


def palette() -> bytes:
    return plain(picture(1, (40, 30)).quantize(32), transparency=3)


KINDS: dict[str, Callable[[], bytes]] = {
    "RGB": plain,
    "RGBA": lambda: plain(picture(1, (40, 30)).convert("RGBA")),
    "gray16": lambda: plain(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)),
    "palette": palette,
    "one bit": lambda: plain(picture(1, (40, 30)).convert("1")),
    "animation": animation,
    "dpi": lambda: plain(dpi=(300, 300)),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_same_pixels_as_without_the_filter(name: str) -> None:
    data = KINDS[name]()
    mixed = with_chunks(LARGE["eXIf"], LARGE["zTXt"], data=data)
    filtered = only_pixels(mixed)
    streamed = only_pixels_of(io.BytesIO(mixed)).read()
    assert filtered == streamed
    for result in (data, filtered):
        with Image.open(io.BytesIO(data)) as one, Image.open(io.BytesIO(result)) as other:
            assert one.mode == other.mode
            assert ImageOps.exif_transpose(one).tobytes() == other.tobytes()


def test_a_file_without_side_chunks_is_left_alone() -> None:
    data = plain(dpi=(72, 72)) + b"more"
    assert only_pixels(data) is data
    file = io.BytesIO(data)
    assert only_pixels_of(file) is file
    assert file.tell() == 0


def test_files_that_are_cut_off_stay_so(tmp_path: Path) -> None:
    data = with_chunks(LARGE["zTXt"])
    for cut in (len(SIGNATURE), 20, 40, data.index(b"IDAT") + 30):
        path = tmp_path / "a.png"
        path.write_bytes(data[:cut])
        with pytest.raises(ImageError, match="not an image that can be read"):
            decode_image(path)


def test_more_side_chunks_than_any_program_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks((chunk(b"prVt", b"") + chunk(b"gAMA", bytes(4))) * 70_000))
    with pytest.raises(ImageError, match="more chunks beside its pixels"):
        decode_image(path)


def test_the_joined_file_can_be_read_in_any_order() -> None:
    data = with_chunks(LARGE["tEXt"], TURNED["eXIf"], LARGE["iTXt"])
    whole, file = only_pixels(data), only_pixels_of(io.BytesIO(data))
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, count = (int(n) for n in rng.integers(0, len(whole) + 10, 2))
        assert file.seek(start) == start
        assert file.read(count) == whole[start : start + count]
    assert file.seek(-4, io.SEEK_END) == len(whole) - 4
    assert file.read() == whole[-4:]
