import tempfile

import numpy as np
import pytest
from doubles import tree, write_pictures

from vqtrt.bench.images import bench_encode, eager_loop
from vqtrt.config.location import ModelLocation, find_model
from vqtrt.data.images.folder import ImageFolder
from vqtrt.errors import ImageError, VqtrtError

RATES = ["decode", "engine", "end_to_end", "eager_loop"]


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "pics", *[f"{i}.png" for i in range(5)], size=(20, 24))


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def test_all_rates_of_a_run(tiny_run, folder, scratch):
    calls = []
    found = bench_encode(
        find_model(tiny_run),
        folder,
        batch_size=2,
        workers=1,
        repeat=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    rates = {name: found[f"{name}_images_per_second"] for name in RATES}
    assert all(rate > 0 and np.isfinite(rate) for rate in rates.values())
    assert found["bound_images_per_second"] == pytest.approx(
        1 / (1 / rates["decode"] + 1 / rates["engine"])
    )
    assert found["peak_rss_bytes"] > 1 << 20
    assert (found["images"], found["batch_size"], found["workers"]) == (5, 2, 1)
    assert found["engine"] == "onnxruntime"
    assert calls == [(done, 8) for done in range(1, 9)]
    assert tree(scratch) == []
    assert len(tree(folder)) == 5


def test_a_bundle_alone_has_no_eager_loop(tiny_bundle, folder, scratch):
    found = bench_encode(ModelLocation(None, tiny_bundle, "named"), folder, workers=1, repeat=1)
    assert found["eager_loop_images_per_second"] is None
    assert found["end_to_end_images_per_second"] > 0


def test_the_loop_can_be_left_out(tiny_run, folder, scratch):
    found = bench_encode(find_model(tiny_run), folder, workers=1, repeat=1, eager=False)
    assert found["eager_loop_images_per_second"] is None


def test_the_eager_loop_gives_each_image_codes(tiny_run, folder):
    loop = eager_loop(tiny_run, ImageFolder(folder), 2)
    assert loop() == 5
    assert loop() == 5


def test_mistakes(tiny_run, folder, scratch, tmp_path):
    with pytest.raises(VqtrtError, match="no such folder"):
        bench_encode(find_model(tiny_run), tmp_path / "nope", workers=1)
    (folder / "9.png").write_text("hello")
    with pytest.raises(ImageError, match=r"9\.png"):
        bench_encode(find_model(tiny_run), folder, workers=1)
    assert tree(scratch) == []
