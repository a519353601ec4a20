import os
from pathlib import Path

import pytest
from run_files import new_run

from vqtrt.config.images import load_config
from vqtrt.errors import VqtrtError
from vqtrt.training.start import plan


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(name, recipe="shapes", age=0):
    run = new_run(Path("runs") / name, load_config(recipe))
    os.utime(run.path / "config.yaml", (1e9 - age, 1e9 - age))
    return run.path


def test_shapes_is_the_default():
    config, path = plan(None, None, [], resume=False)
    assert config == load_config("shapes")
    assert path == Path("runs/shapes")


def test_a_new_run_takes_a_free_folder():
    make("shapes")
    assert plan("shapes", None, [], resume=False)[1] == Path("runs/shapes-2")
    make("shapes-2")
    assert plan("shapes", None, [], resume=False)[1] == Path("runs/shapes-3")


def test_out_and_overrides():
    config, path = plan("cifar10", Path("here"), ["train.steps=7"], resume=False)
    assert (config.recipe, config.train.steps, path) == ("cifar10", 7, Path("here"))


def test_resume_takes_the_newest():
    make("shapes", age=10)
    newest = make("cifar10", "cifar10", age=5)
    config, path = plan(None, None, ["train.steps=9"], resume=True)
    assert (path, config.recipe, config.train.steps) == (newest, "cifar10", 9)
    assert plan("shapes", None, [], resume=True)[1] == Path("runs/shapes")


def test_resume_of_a_recipe_does_not_take_another_whose_name_begins_alike():
    make("cifar10", "cifar10", age=10)
    numbered = make("cifar10-2", "cifar10", age=5)
    make("cifar10-small", "cifar10-small")
    assert plan("cifar10", None, [], resume=True)[1] == numbered


def test_resume_of_a_recipe_in_a_file():
    config = load_config("shapes", ["recipe=mine"])
    Path("mine.yaml").write_text(config.to_yaml())
    new_run(Path("runs/mine"), config)
    make("shapes")
    assert plan("mine.yaml", None, [], resume=True)[1] == Path("runs/mine")


def test_nothing_to_resume():
    with pytest.raises(VqtrtError, match="nothing to resume: runs holds no run"):
        plan(None, None, [], resume=True)
    with pytest.raises(VqtrtError, match="nothing to resume: here holds no run"):
        plan(None, Path("here"), [], resume=True)
    make("cifar10-small", "cifar10-small")
    with pytest.raises(VqtrtError, match="nothing to resume: runs holds no run of cifar10;"):
        plan("cifar10", None, [], resume=True)


def test_a_resumed_run_keeps_its_model():
    path = make("shapes")
    with pytest.raises(VqtrtError, match="keeps its model"):
        plan(None, path, ["model.hidden=8"], resume=True)
    assert plan(None, path, ["model.hidden=64"], resume=True)[1] == path
