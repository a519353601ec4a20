import os
from pathlib import Path

import pytest
from doubles import picture

from vqtrt.data.foreign import foreign_bytes, foreign_file
from vqtrt.data.images.decode import decode_image
from vqtrt.data.images.open import open_images
from vqtrt.errors import ImageError, VqtrtError


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x", bytes(257) + b"ustar\0", "a tar archive.*ends in .tar, or unpack it"),
        ("x", b"PAR1", "a Parquet table.*name that ends in .parquet"),
        ("x.arrow", bytes(9), "an Arrow table"),
        ("x.zip", b"PK\3\4", "a zip archive.*unpack it"),
        ("x.pkl", b"\x80\x04", "a Python pickle, which is never loaded.*save its arrays"),
        ("x.pt", b"PK", "a file of torch, which is never loaded"),
        ("x.h5", b"", "an HDF5 file"),
        ("x.tfrecord", b"", "a file of records"),
        ("x.psd", b"8BPS\0\1", "a Photoshop file.*convert it"),
    ],
)
def test_a_data_set_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VqtrtError, match=f"{name}: is {what}"):
        open_images(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"8BPS\0\1" + bytes(100), "it is a Photoshop file: convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "it is a HEIF image: convert it"),
        (b"%PDF-1.4\n", "it is a PDF: convert it"),
        (b'{"caption": "cat"}', "it is a text: leave it out"),
        (b"PAR1" + bytes(100), "it is a Parquet table"),
        (b"\xff\x0a" + bytes(100), "it is an image of a format that is not read: convert it"),
        (b"something", "no known image format"),
    ],
)
def test_an_image_is_named_for_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=what):
        decode_image(tmp_path / "a.png")


def test_what_is_read_has_no_other_name(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "webp", "tiff", "bmp", "gif", "ppm", "jp2"):
        picture(0).save(tmp_path / f"a.{suffix}")
        assert foreign_bytes((tmp_path / f"a.{suffix}").read_bytes()) is None
    os.mkfifo(tmp_path / "pipe.tar")
    found = foreign_file(tmp_path / "pipe.tar")
    assert found is not None  # by its suffix; it is not waited for
    assert found.name == "a tar archive"
