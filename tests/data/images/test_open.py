from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqtrt.data.images.arrays import ArrayImages
from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.open import open_images
from vqtrt.data.images.shapes import Shapes
from vqtrt.data.selection import Selection
from vqtrt.errors import VqtrtError


@pytest.mark.parametrize(
    ("text", "split", "count", "seed"),
    [
        ("shapes", "all", 20_000, 0),
        ("shapes", "train", 20_000, 0),
        ("shapes", "test", 2_000, 1 << 63),
        ("shapes:50", "all", 50, 0),
        ("shapes:50:7", "train", 50, 7),
        ("shapes:50:7", "test", 50, 7 | 1 << 63),
    ],
)
def test_shapes(tmp_path, monkeypatch, text, split, count, seed):
    monkeypatch.chdir(tmp_path)
    source = open_images(text, split)
    assert isinstance(source, Shapes)
    assert (source.count, source.seed) == (count, seed)


@pytest.mark.parametrize("text", ["shapes:", "shapes:x", "shapes:1:2:3", "shapes:-1", "shapes:0"])
def test_shapes_mistakes(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VqtrtError, match="shapes"):
        open_images(text)
    with pytest.raises(VqtrtError, match="2\\^63"):
        open_images(f"shapes:1:{2**63}")


def test_folder_called_shapes_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "shapes/a.png")
    assert isinstance(open_images("shapes"), ImageFolder)


def test_image_folder_is_not_descended_by_split(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / split / "a.png")
    source = open_images(str(tmp_path), "train")
    assert source.classes == ("test", "train")
    assert [i.name for i in source.items()] == ["test/a.png", "train/a.png"]


def test_cifar(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073 * 2))
    for path in (tmp_path, tmp_path / "test_batch.bin"):
        source = open_images(path, "test")
        assert [i.name for i in source.items()] == ["test_batch.bin[0]", "test_batch.bin[1]"]
    with pytest.raises(VqtrtError, match="has no data_batch_1"):
        open_images(tmp_path, "train")


def test_arrays(tmp_path):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images=images)
    for name in ("a.npy", "a.npz"):
        source = open_images(tmp_path / name)
        assert isinstance(source, ArrayImages)
        assert next(source.items()).name == f"{name}[0]"


def test_mistakes(tmp_path):
    with pytest.raises(VqtrtError, match="no such file or folder"):
        open_images(tmp_path / "none")
    with pytest.raises(VqtrtError, match="not a split"):
        open_images(tmp_path, "validation")
    (tmp_path / "note.txt").write_text("a note")
    with pytest.raises(VqtrtError, match="not a data set"):
        open_images(tmp_path / "note.txt")
    for odd in ("a\0b", "x" * 5000):
        with pytest.raises(VqtrtError):
            open_images(odd)


def test_one_image(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
    source = open_images(tmp_path / "a.png")
    (item,) = source.items()
    assert (item.name, item.label, source.classes) == ("a.png", -1, ())
    assert (source.read(item) == (1, 2, 3)).all()
    with pytest.raises(VqtrtError, match="--include"):
        open_images(tmp_path / "a.png", selection=Selection(["*.png"]))


def test_a_folder_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", closed)
    with pytest.raises(VqtrtError, match=r"cannot be opened \(.*Permission denied.*\); check the"):
        open_images(tmp_path)
