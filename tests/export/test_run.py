import shutil

import numpy as np
import pytest

from vqtrt.config.location import find_model
from vqtrt.data.images.open import open_images
from vqtrt.errors import VqtrtError
from vqtrt.export import run as module
from vqtrt.export.run import export_bundle, images_for, verify_bundle
from vqtrt.formats.bundle import only_export


def test_the_bundle_goes_into_the_run_by_default(tiny_run):
    assert find_model(tiny_run).bundle == tiny_run / "bundle"


def test_export_elsewhere(tiny_run, tmp_path):
    exported = export_bundle(find_model(tiny_run), tmp_path / "out")
    assert (exported.run, exported.bundle) == (tiny_run, tmp_path / "out")
    assert (tmp_path / "out/bundle.json").is_file()


def test_a_bundle_alone_cannot_be_exported(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    with pytest.raises(VqtrtError, match="is a bundle already"):
        export_bundle(find_model(tmp_path / "bundle"))


def test_verify_uses_the_test_images_of_the_runs_data(tiny_run):
    figures = verify_bundle(find_model(tiny_run))
    assert figures["passed"] is True
    assert figures["images"] == 200
    assert figures["engine"] == "onnxruntime"


def test_verify_takes_shapes_where_the_data_is_gone(tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    text = (run / "config.yaml").read_text()
    assert "path: shapes:200" in text
    (run / "config.yaml").write_text(text.replace("shapes:200", "/nowhere/at/all"))
    monkeypatch.setattr(module, "_EXPORT_IMAGES", 10)
    assert verify_bundle(find_model(run))["images"] == 10


@pytest.mark.parametrize("limit", [1, 128, 130])
def test_images_for_stops_at_the_limit(tiny_run, limit):
    model = find_model(tiny_run)
    batches = list(images_for(model, "shapes:200", "test", limit=limit, workers=1))
    images = np.concatenate(batches)
    assert images.shape == (limit, 16, 16, 3)
    source = open_images("shapes:200", "test")
    last = list(source.items())[limit - 1]
    size = model.open_bundle().info.preprocessing
    np.testing.assert_array_equal(images[-1], source.read(last, size))


def test_images_for_a_bundle_alone(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    model = find_model(tmp_path / "bundle")
    assert model.run is None
    (batch,) = images_for(model, "shapes:3", "all", limit=9, workers=1)
    assert batch.shape == (3, 16, 16, 3)


def test_one_export_writes_a_bundle(tiny_run, tmp_path):
    out = tmp_path / "bundle"
    with only_export(out), pytest.raises(VqtrtError, match="another process is writing it"):
        export_bundle(find_model(tiny_run), out)
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_a_bundle_is_looked_at_before_the_weights(tiny_run, tmp_path, monkeypatch):
    def load(self):
        raise AssertionError("loads")

    monkeypatch.setattr("vqtrt.models.runs.ImageRun.load_model", load)
    (tmp_path / "file").touch()
    with pytest.raises(VqtrtError, match="file"):
        export_bundle(find_model(tiny_run), tmp_path / "file/bundle")
