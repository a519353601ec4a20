import os
import shutil
from pathlib import Path

import pytest

from vqtrt.config.audio import SpeechConfig, SpeechPriorConfig
from vqtrt.config.images import Config, PriorConfig
from vqtrt.config.location import ModelLocation, find_model, newest_run
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import file_sha256


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
            (path / name).write_text(Config().to_yaml() if name == "config.yaml" else "weights")
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
    run = make("named", weights=1, bundle=True)
    found = find_model("named/bundle")
    assert found.bundle == Path("named/bundle")
    assert found.run is not None
    assert found.run.samefile(run)


def test_a_bundle_alone(tmp_path):
    make("named", weights=1, bundle=True)
    shutil.copytree("named/bundle", "elsewhere/bundle")
    found = find_model("elsewhere/bundle")
    assert (found.run, found.bundle, found.path) == (
        None,
        Path("elsewhere/bundle"),
        Path("elsewhere/bundle"),
    )


def test_a_bundle_by_its_own_dot(monkeypatch):
    make("named", weights=1, bundle=True)
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


FOREIGN = {
    "hydra": "defaults:\n  - model: vqvae\nhydra:\n  run:\n    dir: out\n",
    "empty": "",
    "list": "- a\n- b\n",
    "tags": "path: !include other.yaml\n",
    "no yaml": "a: [\n",
    "binary": "\x00\x01",
    "a recipe": "recipe: mine\ntrain:\n  steps: 5\n",
    "another's version": "format_version: 1\nmodel: resnet\n",
    "another's model": "format_version: 1\nmodel:\n  kind: gan\n",
    "large": "a: " + "b" * 2**20,
    "prior": PriorConfig().to_yaml(),
    "prior of speech": SpeechPriorConfig().to_yaml(),
    "newer": Config().to_yaml().replace("format_version: 1", "format_version: 2"),
}


def beside(text: str, *, weights: bool = True) -> ModelLocation:
    """What a bundle is found as in a folder whose config.yaml has this text."""
    make("project", weights=1 if weights else None, bundle=True)
    Path("project/config.yaml").write_text(text)
    return find_model("project/bundle")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_config_of_another_kind_beside_a_bundle_is_no_run(name: str) -> None:
    found = beside(FOREIGN[name])
    assert (found.run, found.bundle) == (None, Path("project/bundle"))


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_a_config_of_another_kind_is_refused_by_name(name: str) -> None:
    beside(FOREIGN[name])
    if name in ("another's model", "newer"):
        return  # of a run, if a damaged one: what reads it says what is wrong
    with pytest.raises(VqtrtError, match="project is neither a run nor a bundle") as caught:
        find_model("project")
    assert "config.yaml" in str(caught.value) or "it is a prior" in str(caught.value)


@pytest.mark.parametrize("config", [Config(), SpeechConfig()])
def test_a_run_beside_a_bundle_has_weights(config: Config | SpeechConfig) -> None:
    assert beside(config.to_yaml()).run == Path("project").resolve()
    Path("project/model.safetensors").unlink()
    assert find_model("project/bundle").run is None


def test_another_folder_of_a_run_is_its_bundle_by_its_weights(tiny_run: Path) -> None:
    """Or a bundle that was put there would be verified, or run by torch, with others' weights."""
    run = make("mine", weights=1)
    shutil.copytree(tiny_run / "bundle", run / "other")
    assert find_model("mine/other").run is None
    shutil.copy(tiny_run / "model.safetensors", run)
    assert find_model("mine/other").run == run.resolve()
    assert file_sha256(run / "model.safetensors") == (
        find_model("mine/other").open_bundle().info.source.weights_sha256
    )


def test_runs_of_other_projects_are_passed_over() -> None:
    make("runs/mine", weights=1)
    for name, text in FOREIGN.items():
        make(f"runs/{name}", weights=50)
        Path(f"runs/{name}/config.yaml").write_text(text)
        if name in ("another's model", "newer"):
            shutil.rmtree(f"runs/{name}")
    assert find_model().run == Path("runs/mine")
