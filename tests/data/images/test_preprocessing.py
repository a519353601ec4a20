import numpy as np
import pytest
from doubles import picture
from PIL import Image
from pydantic import ValidationError

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.errors import ImageError, VqtrtError


def test_the_right_size_is_left_as_it_is():
    image = picture(0, (8, 4))
    result = Preprocessing(height=4, width=8)(image)
    assert (result.dtype, result.shape) == (np.uint8, (4, 8, 3))
    np.testing.assert_array_equal(result, np.asarray(image))


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
def test_equals_resize_then_centre_crop(resample):
    image = picture(1, (40, 20))
    result = Preprocessing(height=10, width=10, resample=resample)(image)
    resized = image.resize((20, 10), Image.Resampling[resample.upper()])
    np.testing.assert_array_equal(result, np.asarray(resized)[:, 5:15])


def test_the_filter_matters():
    image = picture(1, (40, 20))
    kinds = [Preprocessing(resample=kind)(image) for kind in ("bilinear", "bicubic", "lanczos")]
    assert not np.array_equal(kinds[0], kinds[1])
    assert not np.array_equal(kinds[1], kinds[2])


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (90, 7), (31, 33), (500, 3), (16384, 1)])
@pytest.mark.parametrize("target", [(1, 1), (16, 16), (8, 24), (24, 8)])
def test_every_shape_is_covered(size, target):
    preprocessing = Preprocessing(height=target[0], width=target[1])
    width, height = preprocessing.scaled_size(*size)
    assert width >= target[1]
    assert height >= target[0]
    assert width == target[1] or height == target[0]
    if width * height < 10**7:
        assert preprocessing(Image.new("RGB", size, (1, 2, 3))).shape == (*target, 3)


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    result = Preprocessing(height=16, width=16)(Image.fromarray(stripes))
    assert abs(int(result.mean()) - 127) < 8
    assert result.std() < 20


def test_other_modes_are_refused():
    with pytest.raises(ImageError, match="mode L"):
        Preprocessing()(Image.new("L", (4, 4)))


@pytest.mark.parametrize(
    ("text", "size"),
    [("128x64", (128, 64)), ("128X64", (128, 64)), ("64", (64, 64)), (" 8 x 4 ", (8, 4))],
)
def test_with_size(text, size):
    before = Preprocessing(resample="lanczos")
    after = before.with_size(text)
    assert (after.height, after.width, after.resample) == (*size, "lanczos")
    assert (before.height, before.width) == (32, 32)


@pytest.mark.parametrize(
    "text",
    ["", "x", "banana", "8x", "x8", "8x8x8", "0", "-8", "8x-8", "8.5", "1e3", "16385", "9" * 5000],
)
def test_sizes_that_are_none(text):
    with pytest.raises(VqtrtError, match="expected HxW in pixels, such as 128x128") as caught:
        Preprocessing().with_size(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"height": 0}, {"width": 16385}, {"resample": "nearest"}])
def test_bounds(settings):
    with pytest.raises(ValidationError):
        Preprocessing(**settings)


def test_unknown_keys_and_changes_are_refused():
    with pytest.raises(ValidationError):
        Preprocessing.model_validate({"hight": 8})
    with pytest.raises(ValidationError):
        Preprocessing().height = 8  # type: ignore[misc]
