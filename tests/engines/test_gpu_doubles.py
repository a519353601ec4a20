"""The tests of `test_gpu.py` against stand-ins: what would fail there at once, fails here."""

import shutil
from pathlib import Path

import pytest
from engines import test_gpu
from tensorrt_doubles import FakeTensorRT, build, pretend

from vqtrt.config.location import ModelLocation
from vqtrt.formats.bundle import Bundle

globals().update({name: test for name, test in vars(test_gpu).items() if name.startswith("test_")})


@pytest.fixture(scope="module", params=["tensorrt-rtx", "tensorrt"])
def package(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(
    tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory, package: str
) -> ModelLocation:
    run = tmp_path_factory.mktemp("gpu") / "run"
    shutil.copytree(tiny_prior, run)
    sizes = dict.fromkeys(("h", "w", "height", "width"), (4, 4))
    build(Bundle.open(run / "bundle"), package, {"batch": (1, 16)} | sizes)
    return ModelLocation(run, run / "bundle", "named")


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return pretend(monkeypatch)


def test_the_tests_are_here() -> None:
    names = [name for name in globals() if name.startswith("test_")]
    assert len(names) > 8
    assert "test_a_row_is_captured" in names
