from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqtrt.data.grid import check_png, image_grid, pairs_grid, save_png
from vqtrt.errors import VqtrtError


def images(n: int, height: int = 3, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (n, height, width, 3), dtype=np.uint8)


def test_each_image_is_where_it_belongs_and_the_rest_is_white() -> None:
    a, b = images(3), images(2, seed=1)
    grid = image_grid([a, b], padding=2, scale=3)
    assert grid.shape == (2 * (9 + 2) + 2, 3 * (12 + 2) + 2, 3)
    seen = np.zeros(grid.shape[:2], bool)
    for i, row in enumerate((a, b)):
        for j, image in enumerate(row):
            here = np.s_[2 + i * 11 : 11 + i * 11, 2 + j * 14 : 14 + j * 14]
            np.testing.assert_array_equal(grid[here], np.kron(image, np.ones((3, 3, 1), np.uint8)))
            seen[here] = True
    assert (grid[~seen] == 255).all()


def test_no_padding_and_no_scale_is_plain_concatenation() -> None:
    a = images(4)
    np.testing.assert_array_equal(image_grid([a], padding=0), np.concatenate(list(a), axis=1))


def test_pairs_interleave_blocks_of_columns() -> None:
    a, b = images(5), images(5, seed=1)
    expected = image_grid([a[:2], b[:2], a[2:4], b[2:4], a[4:], b[4:]], scale=2)
    np.testing.assert_array_equal(pairs_grid(a, b, columns=2), expected)
    # Fewer images than columns leave no empty columns.
    np.testing.assert_array_equal(pairs_grid(a, b), image_grid([a, b], scale=2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: image_grid([]),
        lambda: image_grid([images(1)], scale=0),
        lambda: image_grid([images(1)], padding=-1),
        lambda: image_grid([images(1), images(1, height=5)]),
        lambda: image_grid([images(1).astype(np.float32)]),
        lambda: pairs_grid(images(2), images(3)),
        lambda: pairs_grid(images(0), images(0)),
        lambda: pairs_grid(images(1), images(1), columns=0),
    ],
)
def test_what_cannot_be_laid_out_is_refused(call) -> None:
    with pytest.raises(ValueError, match=r"needed|must be|needs"):
        call()


def test_png_is_lossless_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    path.write_text("old")
    grid = image_grid([images(3)])
    save_png(path, grid)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        np.testing.assert_array_equal(np.asarray(picture), grid)
    assert list(tmp_path.iterdir()) == [path]


def test_places_for_a_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_png(tmp_path / "grid.png")
    for path, message in [
        (tmp_path, "is a folder; give a file name"),
        (tmp_path / "missing" / "grid.png", "missing: no such folder; create it first"),
    ]:
        with pytest.raises(VqtrtError, match=message):
            check_png(path)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(VqtrtError, match=r"grid\.png: cannot be written \(no permission\)"):
        check_png(tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []


def test_png_that_cannot_be_written_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "grid.png"
    path.write_text("old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(VqtrtError, match="No space left"):
        save_png(path, images(1)[0])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(VqtrtError, match=r"missing.*cannot be written"):
        save_png(tmp_path / "missing" / "grid.png", images(1)[0])
