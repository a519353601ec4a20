import time
import zlib

import numpy as np
import pytest
from PIL import Image

from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.shapes import CLASSES, Shapes, write_shapes
from vqtrt.errors import VqtrtError


def test_items():
    source = Shapes(200, seed=3)
    items = list(source.items())
    assert len(items) == len(source) == 200
    assert items[17].name == "shapes-000017.png"
    assert source.classes == CLASSES
    assert len(set(CLASSES)) == 10
    assert {i.label for i in items} == set(range(10))
    image = source.read(items[0])
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8


def test_image_depends_on_seed_and_index_alone():
    few, many, other = Shapes(3, 1), Shapes(5000, 1), Shapes(5000, 2)
    for a, b in zip(few.items(), many.items(), strict=False):
        assert a == b
        np.testing.assert_array_equal(few.read(a), many.read(b))
        assert not np.array_equal(few.read(a), other.image(b.key))
    assert not np.array_equal(few.image(0), few.image(1))


def test_pixels_never_change():
    data = b"".join(Shapes(40, 0).image(i).tobytes() for i in range(40))
    assert zlib.crc32(data) == 3775360783


def test_labels_are_about_uniform():
    counts = np.bincount([i.label for i in Shapes(5000).items()], minlength=10)
    assert counts.min() > 400
    assert counts.max() < 600


def test_classes_are_told_apart_by_color():
    source = Shapes(600)
    colors = [[] for _ in CLASSES]
    for item in source.items():
        image = source.read(item).reshape(-1, 3).astype(float)
        brightest = image[image.max(1) >= np.quantile(image.max(1), 0.95)]
        colors[item.label].append(brightest.mean(0))
    means = np.array([np.mean(c, 0) for c in colors])
    right = [
        np.argmin(((means - c) ** 2).sum(1)) == label
        for label, found in enumerate(colors)
        for c in found
    ]
    assert np.mean(right) > 0.97


def test_shape_is_inside_the_picture():
    source = Shapes(300)
    for item in source.items():
        peak = source.read(item).max(-1)
        border = np.concatenate([peak[0], peak[-1], peak[:, 0], peak[:, -1]])
        assert np.median(border) < 100
        assert peak.max() > 120


@pytest.mark.parametrize("size", [8, 64, 100])
def test_sizes_show_the_same_picture(size):
    small, large = Shapes(5, size=size).image(4), Shapes(5, size=200).image(4)
    shrunk = Image.fromarray(large).resize((size, size), Image.Resampling.BOX)
    assert abs(small.astype(int) - np.asarray(shrunk)).mean() < 6


def test_preprocessing():
    source = Shapes(1)
    item = next(source.items())
    assert source.read(item, Preprocessing(height=16, width=24)).shape == (16, 24, 3)


@pytest.mark.parametrize("arguments", [(0,), (1, -1), (1, 2**64), (1, 0, 2)])
def test_mistakes(arguments):
    with pytest.raises(VqtrtError, match="shapes: count"):
        Shapes(*arguments)


def test_write(tmp_path):
    write_shapes(tmp_path / "new/shapes", 60, seed=5)
    folder = ImageFolder(tmp_path / "new/shapes")
    source = Shapes(60, 5)
    by_number = {i.name.split("/")[1]: i for i in folder.items()}
    assert len(by_number) == 60
    for item in source.items():
        written = by_number[f"{item.key:06}.png"]
        assert written.name.split("/")[0] == CLASSES[item.label]
        np.testing.assert_array_equal(folder.read(written), source.read(item))
    with pytest.raises(VqtrtError, match="not empty"):
        write_shapes(tmp_path / "new/shapes", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(VqtrtError, match="cannot be written"):
        write_shapes(tmp_path / "file/below", 1)


def test_is_fast():
    source = Shapes(500)
    start = time.process_time()
    for i in range(500):
        source.image(i)
    assert time.process_time() - start < 1.0  # 0.1 s on a common core
