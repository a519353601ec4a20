"""Several views of an image: which they are, and that they go through a job."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import FakeEngine, FakeSource, picture, write_pictures
from PIL import Image
from pipeline_jobs import encode

from vqtrt.data.images.arrays import ArrayImages
from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.views import ViewsPreprocessing, with_views
from vqtrt.errors import VqtrtError
from vqtrt.formats.converters.convert import convert_codes
from vqtrt.formats.items import open_codes
from vqtrt.formats.shard_codes import merge, read_images
from vqtrt.formats.shards import read_job
from vqtrt.images.decode import decode_codes
from vqtrt.images.tokenizer import ImageTokenizer

SIZE = Preprocessing(height=16, width=12)


def test_flip():
    image = picture(3, (40, 30))
    views = with_views(SIZE, "flip")
    one = SIZE(image)
    np.testing.assert_array_equal(views(image), np.stack([one, one[:, ::-1]]))
    assert views.shape == (2, 16, 12, 3)


@pytest.mark.parametrize("size", [(40, 30), (17, 17), (12, 16), (5, 3)])
def test_ten_crops_are_those_of_torchvision(size):
    """Written out here by its definition: five crops of the image, then of its mirror image."""
    image = picture(3, size)
    whole = Preprocessing(height=17, width=13)(image)  # int(1.1 * 16), int(1.1 * 12)
    wanted = []
    for side in (whole, np.flip(whole, 1)):
        for top, left in ((0, 0), (0, 1), (1, 0), (1, 1), (round(0.5), round(0.5))):
            wanted.append(side[top : top + 16, left : left + 12])
    found = with_views(SIZE, "ten-crop")(image)
    np.testing.assert_array_equal(found, np.stack(wanted))
    assert found.shape == with_views(SIZE, "ten-crop").shape == (10, 16, 12, 3)


def test_a_photograph_is_not_shrunk_too_far(tmp_path):
    """A JPEG is decoded smaller, but no smaller than twice the image that crops are taken from."""
    picture(1, (2000, 1500)).save(tmp_path / "a.jpg", quality=95)
    views, plain = with_views(SIZE, "ten-crop"), Preprocessing(height=17, width=13)
    folder = ImageFolder(tmp_path)
    (item,) = folder.items()
    np.testing.assert_array_equal(folder.read(item, views)[0], folder.read(item, plain)[:16, :12])


@pytest.mark.parametrize("views", ["flip", "ten-crop"])
def test_an_image_of_the_size_of_the_model_has_views_too(views):
    image = np.asarray(picture(2, (12, 16)))
    source = ArrayImages(image[None])
    (item,) = source.items()
    how = with_views(SIZE, views)
    np.testing.assert_array_equal(source.read(item, how), how(Image.fromarray(image)))


@pytest.mark.parametrize("books", [1, 2])
@pytest.mark.parametrize("views", ["flip", "ten-crop"])
@pytest.mark.parametrize("options", [{}, {"format": "parquet"}])
def test_the_codes_are_those_of_each_view_alone(tmp_path, views, books, options):
    folder = ImageFolder(write_pictures(tmp_path / "pics", *(f"{n}.png" for n in range(7))))
    (tmp_path / "pics/3.png").write_bytes(b"no picture")
    engine = FakeEngine(num_codebooks=books)
    how: ViewsPreprocessing = with_views(Preprocessing(height=16, width=16), views)
    told: dict[str, Any] = {"engine": engine, "preprocessing": how, "on_error": "skip"}
    encode(folder, tmp_path / "codes", shard_size=4, **told, **options)
    encode(folder, tmp_path / "one.npy", **told)
    wanted = [
        engine.encoder(folder.read(item, how)) for item in folder.items() if item.name != "3.png"
    ]
    for path in (tmp_path / "codes", tmp_path / "one.npy"):
        codes = open_codes(path)
        np.testing.assert_array_equal(codes[:], np.stack(wanted))
        assert codes.header.views == views
        assert codes.header.preprocessing["views"] == views
    merge(tmp_path / "codes", tmp_path / "merged.npy", check=True)
    assert (tmp_path / "merged.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
    with pytest.raises(VqtrtError, match="another"):
        encode(folder, tmp_path / "codes", **(told | {"preprocessing": None}))


def test_each_view_is_a_line_of_jsonl(tmp_path):
    how = with_views(Preprocessing(height=16, width=16), "flip")
    encode(FakeSource(3), tmp_path / "codes", preprocessing=how)
    convert_codes(tmp_path / "codes", tmp_path / "codes.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "codes.jsonl").read_text().splitlines()]
    codes = open_codes(tmp_path / "codes")
    assert [(line["id"][:6], line["view"]) for line in lines] == [
        (f"{number:06}", view) for number in range(3) for view in range(2)
    ]
    tokens = [codes[number][view].ravel().tolist() for number in range(3) for view in range(2)]
    assert [line["tokens"] for line in lines] == tokens


def test_codes_without_views_are_what_they_were(tmp_path):
    encode(FakeSource(3), tmp_path / "codes")
    encode(FakeSource(3), tmp_path / "one.npy")
    assert "views" not in (tmp_path / "codes/job.json").read_text()
    assert "views" not in (tmp_path / "one.json").read_text()
    assert read_job(tmp_path / "codes").header.views is None


@pytest.mark.parametrize("name", ["codes", "one.npy"])
def test_what_takes_one_view_refuses_several(tmp_path: Path, name):
    how = with_views(Preprocessing(height=16, width=16), "ten-crop")
    encode(FakeSource(3), tmp_path / name, preprocessing=how)
    codes = read_images(tmp_path / name)
    with pytest.raises(VqtrtError, match=r"has 10 views of each image \(ten-crop\)"):
        decode_codes(ImageTokenizer(FakeEngine()), codes, tmp_path / "out")
