import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vqtrt.data.images import npz
from vqtrt.data.images.npz import open_array_images
from vqtrt.data.images.open import open_images
from vqtrt.data.images.shapes import Shapes
from vqtrt.errors import VqtrtError

Images = NDArray[np.uint8]


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)


def npy(header: str, data: bytes, version: tuple[int, int] = (1, 0), length: int = 0) -> bytes:
    text = header.encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", length or len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def header(shape: str = "(1, 2, 2, 3)") -> str:
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["images", "x", "data", "anything"])
@pytest.mark.parametrize("label_key", ["labels", "y"])
def test_npz(
    tmp_path: Path, images: Images, save: Callable[..., None], key: str, label_key: str
) -> None:
    path = tmp_path / "a.npz"
    save(path, **{key: images, label_key: np.array([[0], [1], [2], [1], [0]])})
    source = open_array_images(path)
    items = list(source.items())
    assert [i.label for i in items] == [0, 1, 2, 1, 0]
    assert items[1].name == "a.npz[1]"
    np.testing.assert_array_equal(source.read(items[4]), images[4])


def test_npz_arr_0_and_no_labels(tmp_path: Path, images: Images) -> None:
    np.savez(tmp_path / "a.npz", images)
    source = open_array_images(tmp_path / "a.npz")
    assert source.classes == ()
    assert {i.label for i in source.items()} == {-1}


def test_npz_ambiguous(tmp_path: Path, images: Images) -> None:
    np.savez(tmp_path / "a.npz", a=images, b=images)
    with pytest.raises(VqtrtError, match=r"2 arrays may be .*; it holds a uint8"):
        open_array_images(tmp_path / "a.npz")


def test_npz_attacks(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evil.npz"
    stream = io.BytesIO()
    np.save(stream, np.array([{}], object), allow_pickle=True)
    contents = {
        "dtype": stream.getvalue(),
        "cut short": npy(header(shape="(1000000, 1000, 1000, 3)"), b"\0" * 12),
        "2147483648": npy(header(), b"\0" * 12, version=(2, 0), length=2**31),
        "after an array's end": npy(header(), b"\0" * 13),
    }
    for message, content in contents.items():
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
        with pytest.raises(VqtrtError, match=message):
            open_array_images(path)
    np.savez(path, images=images)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(VqtrtError, match="CRC"):
        open_array_images(path)
    path.write_bytes(b"no zip")
    with pytest.raises(VqtrtError, match=r"not an \.npz"):
        open_array_images(path)
    np.savez(path, images=images)
    monkeypatch.setattr(npz, "MAX_NPZ_BYTES", 100)
    with pytest.raises(VqtrtError, match="declares 720 bytes"):
        open_array_images(path)


def labels(source: Any) -> list[int]:
    return [item.label for item in source.items()]


def names(source: Any) -> list[str]:
    return [item.name for item in source.items()]


def first(source: Any) -> Images:
    return source.read(next(source.items()))


@pytest.fixture
def medmnist(tmp_path: Path, images: Images) -> Path:
    """Parts with labels (N, 1)."""
    path = tmp_path / "medmnist.npz"
    parts: dict[str, Any] = {}
    for number, part in enumerate(("train", "val", "test")):
        parts[f"{part}_images"] = images[number:]
        parts[f"{part}_labels"] = np.arange(5 - number, dtype=np.uint8)[:, None]
    np.savez(path, **parts)
    return path


@pytest.mark.parametrize("split", ["train", "test"])
def test_parts_are_chosen_by_the_split(medmnist: Path, images: Images, split: str) -> None:
    source = open_images(medmnist, split)
    start = {"train": 0, "test": 2}[split]
    np.testing.assert_array_equal(first(source), images[start])
    assert labels(source) == list(range(5 - start))
    assert names(source)[0] == f"medmnist.npz:{split}_images[0]"


def test_an_array_is_named_behind_the_path(medmnist: Path, images: Images) -> None:
    source = open_images(f"{medmnist}:val_images")
    np.testing.assert_array_equal(first(source), images[1])
    assert labels(source) == [0, 1, 2, 3]
    assert names(source)[3] == "medmnist.npz:val_images[3]"
    # Other arrays have other names, so that no job is resumed on another.
    assert names(open_images(f"{medmnist}:test_images"))[0] == "medmnist.npz:test_images[0]"


def test_what_there_is_is_listed(medmnist: Path) -> None:
    with pytest.raises(VqtrtError) as caught:
        open_images(medmnist)
    told = str(caught.value)
    assert "it holds train_images uint8 (5, 8, 6, 3)" in told
    assert "test_labels uint8 (3, 1)" in told
    assert told.endswith(f"as in {medmnist}:train_images")
    with pytest.raises(VqtrtError, match="no array named nope; it holds train_images uint8"):
        open_images(f"{medmnist}:nope")
    with pytest.raises(VqtrtError, match=r"train_labels: images are|train_labels: shape"):
        open_images(f"{medmnist}:train_labels")


def test_keras(tmp_path: Path) -> None:
    gray = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 28, 28)
    path = tmp_path / "mnist.npz"
    np.savez(
        path,
        x_train=gray,
        y_train=np.arange(5, dtype=np.uint8),
        x_test=gray[:2],
        y_test=np.arange(2),
    )
    for split, count in (("train", 5), ("test", 2)):
        assert labels(open_images(path, split)) == list(range(count))
    np.testing.assert_array_equal(first(open_images(path, "test"))[..., 1], gray[0])
    np.savez(path, x_train=gray, y_train=np.arange(5, dtype=np.uint8))
    source = open_images(path)  # the only array that can be images
    assert (labels(source), names(source)[0]) == ([0, 1, 2, 3, 4], "mnist.npz[0]")
    assert names(open_images(f"{path}:x_train")) == names(source)


def test_downsampled_imagenet(tmp_path: Path) -> None:
    made = Shapes(4, size=64)
    pictures = np.stack([made.image(index) for index in range(4)])
    path = tmp_path / "train_data_batch_1.npz"
    planar = pictures.transpose(0, 3, 1, 2).reshape(4, -1)
    np.savez(path, data=planar, labels=np.arange(1, 5), mean=np.zeros(12288))
    source = open_images(path)
    np.testing.assert_array_equal(first(source), pictures[0])
    assert labels(source) == [1, 2, 3, 4]  # as they are in the file, which counts from 1
    assert source.classes == ("0", "1", "2", "3", "4")
    # Pixel after pixel would come out as noise.
    np.savez(path, data=pictures.reshape(4, -1))
    with pytest.raises(VqtrtError, match=r"look like pixel after pixel.*\(N, 64, 64, 3\)"):
        open_images(path)
    # Of another name, nobody knows.
    np.savez(path, pixels=planar)
    with pytest.raises(VqtrtError, match=r"0 arrays may be .*; it holds pixels uint8"):
        open_images(path)


def test_flat_gray(tmp_path: Path) -> None:
    flat = np.arange(3 * 784, dtype=np.uint8).reshape(3, 784)
    np.savez(tmp_path / "a.npz", x=flat, y=[0, 1, 2])
    source = open_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(first(source)[..., 0], flat[0].reshape(28, 28))


def test_samples_of_guided_diffusion(tmp_path: Path, images: Images) -> None:
    np.savez(tmp_path / "a.npz", images, np.arange(5))
    assert labels(open_images(tmp_path / "a.npz")) == [0, 1, 2, 3, 4]
    for other in (images, np.arange(4), np.zeros(5), np.zeros((5, 3), int)):
        np.savez(tmp_path / "a.npz", images, other)
        assert labels(open_images(tmp_path / "a.npz")) == [-1] * 5


def test_masks_beside_images_are_no_images(tmp_path: Path, images: Images) -> None:
    np.savez(tmp_path / "a.npz", pictures=images, masks=images[..., 0])
    np.testing.assert_array_equal(first(open_images(tmp_path / "a.npz")), images[0])
    np.testing.assert_array_equal(
        first(open_images(f"{tmp_path / 'a.npz'}:masks"))[..., 2], images[0, ..., 0]
    )


def test_several_labels_of_an_image_are_no_class(tmp_path: Path, images: Images) -> None:
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.zeros((5, 14), np.uint8))
    assert open_images(tmp_path / "a.npz").classes == ()
    np.savez(tmp_path / "a.npz", images=images, labels=np.zeros(4, np.uint8))
    with pytest.raises(VqtrtError, match=r"labels are uint8 \(4,\), not 5 integers"):
        open_images(tmp_path / "a.npz")


def test_an_array_that_is_not_wanted_does_no_harm(tmp_path: Path, images: Images) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=images)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("meta.npy", b"\x93NUMPY\1\0 damaged")
        archive.writestr("notes.txt", b"made by hand")
    assert names(open_images(path))[0] == "a.npz[0]"
    with pytest.raises(VqtrtError, match=r"meta\.npy: "):
        open_images(f"{path}:meta")


def test_what_is_wrong_with_the_only_array(tmp_path: Path, images: Images) -> None:
    np.savez(tmp_path / "a.npz", pictures=images / np.float32(255), ids=np.arange(5))
    with pytest.raises(VqtrtError, match="pictures: images are float32; save them as uint8"):
        open_images(tmp_path / "a.npz")


def test_many_arrays(tmp_path: Path, images: Images) -> None:
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {f"image{i}": images for i in range(30)}
    np.savez(path, **arrays)
    with pytest.raises(VqtrtError, match=r"30 arrays may be .*, and 10 more; name"):
        open_images(path)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(1001):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(VqtrtError, match="holds 1001 arrays"):
        open_images(path)


def test_an_npy_has_no_parts(tmp_path: Path, images: Images) -> None:
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(VqtrtError, match=r"an \.npy has one array"):
        open_images(f"{tmp_path / 'a.npy'}:x")
