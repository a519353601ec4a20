import os
import shutil
from pathlib import Path

import pytest

from vqtrt.artefacts import find_model, newest_run
from vqtrt.errors import VqtrtError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VQTRT_MODEL", raising=False)


def make(path, *, settings=None, weights=None, bundle=False):
    """A run as far as this module looks; `settings` and `weights` are times of writing."""
    path = Path(path)
    path.mkdir(parents=True)
    for name, time in (("config.yaml", settings or 1), ("model.safetensors", weights)):
        if time is not None:
            (path / name).touch()
            os.utime(path / name, (time, time))
    if bundle:
        (path / "bundle").mkdir()
        (path / "bundle/bundle.json").touch()
    return path


def test_the_named_one_comes_first(monkeypatch):
    make("named", bundle=True)
    monkeypatch.setenv("VQTRT_MODEL", str(make("variable")))
    make("runs/newest", weights=5)
    found = find_model("named")
    assert (found.run, found.bundle) == (Path("named"), Path("named/bundle"))
    assert (found.path, found.chosen_by) == (Path("named"), "named")


def test_then_the_variable(monkeypatch):
    monkeypatch.setenv("VQTRT_MODEL", str(make("variable")))
    make("runs/newest", weights=5)
    found = find_model()
    assert (found.run, found.bundle, found.chosen_by) == (Path("variable"), None, "$VQTRT_MODEL")


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("VQTRT_MODEL", "")
    assert find_model(make("runs/a")).path == Path("runs/a")
    assert find_model().chosen_by == "newest under runs"


def test_then_the_newest_run():
    make("runs/b", weights=10)
    make("runs/a", settings=1, weights=20)
    make("runs/c", settings=30)
    (Path("runs") / "notes.txt").touch()
    (Path("runs") / "empty").mkdir()
    # One that has just begun has no weights to use.
    assert find_model().run == Path("runs/a")
    assert newest_run() == Path("runs/c")
    assert newest_run(trained=True) == Path("runs/a")


def test_a_run_without_weights_is_better_than_none():
    make("runs/c", settings=30)
    assert find_model().run == Path("runs/c")
    assert newest_run(trained=True) is None


def test_runs_of_a_recipe():
    make("runs/shapes", settings=1)
    make("runs/shapes-12", settings=2)
    make("runs/shapes-small", settings=3)
    make("runs/shapes-12-b", settings=4)
    assert newest_run("shapes") == Path("runs/shapes-12")
    assert newest_run("shapes-small") == Path("runs/shapes-small")
    assert newest_run("s*") is None
    assert newest_run() == Path("runs/shapes-12-b")


def test_a_bundle_in_a_run_finds_its_run():
    run = make("named", bundle=True)
    found = find_model("named/bundle")
    assert found.bundle == Path("named/bundle")
    assert found.run is not None
    assert found.run.samefile(run)


def test_a_bundle_alone(tmp_path):
    make("named", bundle=True)
    shutil.copytree("named/bundle", "elsewhere/bundle")
    found = find_model("elsewhere/bundle")
    assert (found.run, found.bundle, found.path) == (
        None,
        Path("elsewhere/bundle"),
        Path("elsewhere/bundle"),
    )


def test_a_bundle_by_its_own_dot(monkeypatch):
    make("named", bundle=True)
    monkeypatch.chdir("named/bundle")
    found = find_model(".")
    assert found.run is not None
    assert found.run.name == "named"


def test_a_run_without_a_bundle_names_the_command():
    with pytest.raises(VqtrtError, match="runs/a has no bundle yet: type `vqtrt export runs/a`"):
        find_model(make("runs/a")).open_bundle()


def test_open_bundle(tiny_run, tiny_bundle):
    assert find_model(tiny_run).open_bundle().path == tiny_bundle


def test_messages(monkeypatch):
    with pytest.raises(VqtrtError, match=r"no model: \./runs holds no run; type `vqtrt train"):
        find_model()
    with pytest.raises(VqtrtError, match="nowhere: no such run or bundle"):
        find_model("nowhere")
    Path("empty").mkdir()
    with pytest.raises(VqtrtError, match=r"empty is neither a run \(config\.yaml\) nor a bundle"):
        find_model("empty")
    Path("file").touch()
    with pytest.raises(VqtrtError, match="file is neither a run"):
        find_model("file")
    monkeypatch.setenv("VQTRT_MODEL", "gone")
    with pytest.raises(VqtrtError, match="gone: no such run or bundle") as error:
        find_model()
    assert "VQTRT_MODEL" in str(error.value)
