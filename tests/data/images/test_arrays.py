import struct

import numpy as np
import pytest

from vqtrt.data.images.arrays import ArrayImages
from vqtrt.data.images.npz import open_array_images
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.npy import open_npy
from vqtrt.errors import ImageError, VqtrtError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)


def npy(header: str, data: bytes = b"", version=(1, 0), length: int | None = None) -> bytes:
    text = header.encode()
    length = len(text) if length is None else length
    size = struct.pack("<H" if version == (1, 0) else "<I", length)
    return b"\x93NUMPY" + bytes(version) + size + text + data


def header(descr: str = "'|u1'", shape: str = "(1, 2, 2, 3)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def test_rgb_with_labels_and_classes(images):
    source = ArrayImages(images, [0, 1, 1, -1, 0], ("a", "b"), stem="s.npy")
    items = list(source.items())
    assert [i.name for i in items] == [f"s.npy[{i}]" for i in range(5)]
    assert [i.label for i in items] == [0, 1, 1, -1, 0]
    assert source.classes == ("a", "b")
    assert len(source) == 5
    for item, image in zip(items, images, strict=True):
        np.testing.assert_array_equal(source.read(item), image)


def test_read_gives_a_copy(images):
    source = ArrayImages(images)
    item = next(source.items())
    source.read(item, Preprocessing(height=8, width=6))[:] = 0
    np.testing.assert_array_equal(source.read(item), images[0])


@pytest.mark.parametrize("shape", [(5, 8, 6), (5, 8, 6, 1)])
def test_gray_is_replicated(images, shape):
    gray = images[..., 0].reshape(shape)
    source = ArrayImages(gray)
    image = source.read(list(source.items())[2])
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, np.repeat(images[2, :, :, :1], 3, -1))


def test_preprocessing_resizes_only_if_needed(images, monkeypatch):
    source = ArrayImages(images)
    item = next(source.items())
    assert source.read(item, Preprocessing(height=4, width=4)).shape == (4, 4, 3)
    monkeypatch.setattr(Preprocessing, "__call__", lambda *_: pytest.fail("resized"))
    same = source.read(item, Preprocessing(height=8, width=6))
    np.testing.assert_array_equal(same, images[0])


def test_elongated_image_is_named():
    source = ArrayImages(np.zeros((1, 1, 200_000, 3), np.uint8))
    with pytest.raises(ImageError, match=r"images\[0\]: too elongated"):
        source.read(next(source.items()), Preprocessing(height=32, width=32))


def test_labels_without_classes_are_numbers(images):
    assert ArrayImages(images, np.array([2, 0, 1, 0, 0])).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "uint8"),
        (np.zeros((2, 3, 4, 4), np.uint8), "channels first"),
        (np.zeros((4, 4, 3), np.uint8), "looks like one image"),
        (np.zeros((4, 4), np.uint8), "shape"),
        (np.zeros((), np.uint8), "shape"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no images"),
    ],
)
def test_wrong_arrays(array, message):
    with pytest.raises(VqtrtError, match=message):
        ArrayImages(array)


@pytest.mark.parametrize(
    "labels", [[0, 1], [0.5] * 5, [0, 0, 0, 0, 2], [-2] * 5, np.eye(5, dtype=int)]
)
def test_wrong_labels(images, labels):
    with pytest.raises(VqtrtError, match="labels"):
        ArrayImages(images, labels, ("a", "b"))


def test_huge_label_makes_no_classes(images):
    with pytest.raises(VqtrtError, match="outside"):
        ArrayImages(images, np.full(5, 2**40))


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">u2", "<f4", "?"])
def test_npy_equals_numpy(tmp_path, images, mmap, version, dtype):
    for array in (images.astype(dtype), np.asfortranarray(images.astype(dtype)), images[:0]):
        path = tmp_path / "a.npy"
        with path.open("wb") as stream:
            np.lib.format.write_array(stream, array, version)
        result = open_npy(path, mmap)
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(result, array)


def test_npy_is_mapped_read_only(tmp_path, images):
    np.save(tmp_path / "a.npy", images)
    result = open_npy(tmp_path / "a.npy")
    assert isinstance(result, np.memmap)
    assert not result.flags.writeable
    source = open_array_images(tmp_path / "a.npy")
    item = list(source.items())[3]
    assert item.name == "a.npy[3]"
    assert type(source.read(item)) is np.ndarray
    np.testing.assert_array_equal(source.read(item), images[3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .npy"),
        (b"PK\x03\x04aaaaaaaa", "not a .npy"),
        (npy(header(), b"\0" * 12, version=(4, 0)), "version 4.0"),
        (npy(header(), b"\0" * 12, version=(2, 0), length=2**31), "2147483648 bytes"),
        (npy(header(), b"\0" * 12, version=(1, 0), length=65535), "cut short"),
        (npy("", b"", length=0), "header of 0 bytes"),
        (npy(header("'|O'"), b"\0" * 96), "dtype"),
        (npy(header("[('a', '|O')]"), b"\0" * 96), "dtype"),
        (npy(header("'|V8'"), b"\0" * 96), "dtype"),
        (npy(header(shape="(1000000, 1000, 1000, 3)"), b"\0" * 12), "cut short"),
        (npy(header(shape="(1, 2, 2, 3)"), b"\0" * 11), "cut short"),
        (npy(header(shape=f"({2**62}, 4)"), b"\0" * 12), "shape"),
        (npy(header(shape="(-1, 4)"), b"\0" * 12), "shape"),
        (npy(header(shape="(True, 4)"), b"\0" * 12), "shape"),
        (npy(header(shape="4"), b"\0" * 12), "shape"),
        (npy(header(fortran="1"), b"\0" * 12), "order"),
        (npy("__import__('os').system('true')"), "damaged"),
        (npy("{'descr': '|u1'}"), "damaged"),
        (npy("[1]"), "damaged"),
        (npy("(" * 60000), "damaged"),
        (npy("-" * 60000 + "1"), "damaged"),
        (npy("\0\xff"), "damaged"),
    ],
)
def test_npy_attacks(tmp_path, content, message):
    path = tmp_path / "evil.npy"
    path.write_bytes(content)
    for mmap in (True, False):
        with pytest.raises(VqtrtError, match=message) as caught:
            open_npy(path, mmap)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_npy_missing(tmp_path):
    with pytest.raises(VqtrtError, match="No such file"):
        open_npy(tmp_path / "none.npy")
