import numpy as np
import pytest

from vqtrt.training.code_picture import code_colors, codes_picture


def test_like_codes_have_like_colors():
    # Along a line in many dimensions: colors ascend, or descend, with it.
    entries = np.arange(20)[:, None] * np.random.default_rng(0).normal(size=(1, 16))
    colors = code_colors(entries.astype(np.float32))
    assert (colors.shape, colors.dtype) == ((20, 3), np.uint8)
    steps = np.diff(colors[:, 0].astype(int))
    assert (steps > 0).all() or (steps < 0).all()
    assert {int(colors[:, 0].min()), int(colors[:, 0].max())} == {32, 240}


@pytest.mark.parametrize("shape", [(1, 4), (2, 1), (5, 2), (300, 8)])
def test_codebooks_of_any_size(shape):
    colors = code_colors(np.random.default_rng(1).normal(size=shape))
    assert (colors.shape, colors.dtype) == ((shape[0], 3), np.uint8)


def test_lines_and_groups():
    colors = np.arange(12, dtype=np.uint8).reshape(4, 3)
    groups = [[np.array([0, 1, 2]), np.array([3])], [np.array([2], np.uint8)]]
    image = codes_picture(groups, colors)
    assert image.shape == (3 * 14 + 12 + 2, 3 * 4 + 4, 3)
    np.testing.assert_array_equal(image[2, 2:14], colors[[0] * 4 + [1] * 4 + [2] * 4])
    np.testing.assert_array_equal(image[27, 2:6], colors[[3] * 4])
    assert (image[16:28, 6:] == 255).all()
    assert (image[30:42] == 255).all()
    np.testing.assert_array_equal(image[42, 2:6], colors[[2] * 4])
