import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tensorrt_doubles import GPU, build, pretend

from vqtrt.commands.options import EngineName
from vqtrt.config.location import ModelLocation
from vqtrt.engines import choose
from vqtrt.engines.choose import installed, open_engine
from vqtrt.engines.options import ENGINES, EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle


@pytest.fixture
def both(tiny_run, tiny_bundle):
    return ModelLocation(tiny_run, tiny_bundle, "named")


@pytest.fixture
def run_alone(tiny_run):
    return ModelLocation(tiny_run, None, "named")


@pytest.fixture
def bundle_alone(tiny_bundle):
    return ModelLocation(None, tiny_bundle, "named")


@pytest.fixture
def only(monkeypatch):
    """Make believe that only some packages are installed."""

    def pretend(*packages):
        monkeypatch.setattr(choose, "installed", lambda name: name in packages)

    return pretend


def test_names():
    assert ENGINES == (
        "auto",
        "tensorrt",
        "tensorrt-rtx",
        "onnxruntime-cuda",
        "onnxruntime",
        "torch",
    )
    assert tuple(name.value for name in EngineName) == ENGINES
    assert installed("numpy")
    assert not installed("no_such_package")


def test_auto_takes_the_bundle_where_there_is_one(both, run_alone, bundle_alone):
    assert open_engine(both).name == "onnxruntime"
    assert open_engine(bundle_alone).name == "onnxruntime"
    assert open_engine(run_alone).name == "torch"


def test_auto_takes_what_is_installed(both, run_alone, bundle_alone, only):
    only("torch")
    assert open_engine(both).name == "torch"
    with pytest.raises(VqtrtError, match=r"no engine is installed.*vqtrt\[cpu\]"):
        open_engine(bundle_alone)
    only("onnxruntime")
    assert open_engine(both).name == "onnxruntime"
    with pytest.raises(VqtrtError, match=r"has no bundle, and torch is not installed.*export"):
        open_engine(run_alone)


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_named_engine(both, name):
    assert open_engine(both, EngineOptions(name)).name == name


def test_a_named_engine_that_is_not_installed(both, only):
    only()
    with pytest.raises(VqtrtError, match=r"onnxruntime is not installed: pip install.*\[cpu\]"):
        open_engine(both, EngineOptions("onnxruntime"))
    with pytest.raises(VqtrtError, match=r"torch is not installed: pip install.*\[train\]"):
        open_engine(both, EngineOptions("torch"))


def test_what_an_engine_needs(run_alone, bundle_alone):
    with pytest.raises(VqtrtError, match="has no bundle yet: type `vqtrt export"):
        open_engine(run_alone, EngineOptions("onnxruntime"))
    with pytest.raises(VqtrtError, match="engine torch needs the run"):
        open_engine(bundle_alone, EngineOptions("torch"))


def test_torch_runs_fp32_only(run_alone):
    with pytest.raises(VqtrtError, match=r"torch runs fp32 only.*export .*--precision fp16"):
        open_engine(run_alone, EngineOptions(precision="fp16"))


def test_a_precision_that_the_bundle_lacks(both):
    with pytest.raises(VqtrtError, match=r"no fp16 graphs: type `vqtrt export .*--precision fp16`"):
        open_engine(both, EngineOptions(precision="fp16"))
    with pytest.raises(VqtrtError, match="no precision 'fp8': choose one of fp32, fp16, bf16"):
        open_engine(both, EngineOptions(precision="fp8"))


def test_a_name_that_is_none(both):
    with pytest.raises(VqtrtError, match="no engine 'trt': choose one of auto, "):
        open_engine(both, EngineOptions("trt"))


SIZES = {"batch": (1, 4), "h": (2, 6), "w": (2, 6)}


@pytest.fixture
def with_engines(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModelLocation:
    """A bundle with engines of TensorRT for RTX that were built here, alone."""
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "state"))
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    build(Bundle.open(folder), "tensorrt-rtx", SIZES)
    return ModelLocation(None, folder, "named")


def test_auto_takes_engines_that_were_built_here(
    with_engines: ModelLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    notes: list[str] = []
    assert open_engine(with_engines, note=notes.append).name == "tensorrt-rtx"
    assert notes == []


def test_auto_falls_back_on_a_gpu_that_the_package_does_not_support(
    with_engines: ModelLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an H100 is to TensorRT for RTX: its plans are there and fit, and can never load."""
    pretend(monkeypatch, gpu=replace(GPU, capability="9.0"))
    notes: list[str] = []
    assert open_engine(with_engines, note=notes.append).name == "onnxruntime"
    (note,) = notes
    assert "not on tensorrt-rtx" in note
    assert "9.0" in note
    with pytest.raises(VqtrtError, match=r"9\.0"):
        open_engine(with_engines, EngineOptions("tensorrt-rtx")).open("encoder")


def test_auto_falls_back_where_the_package_refuses_the_driver(
    with_engines: ModelLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its classes then raise TypeError, which is no `VqtrtError` of ours."""
    module = pretend(monkeypatch)
    module.fails.add("Runtime")
    notes: list[str] = []
    assert open_engine(with_engines, note=notes.append).name == "onnxruntime"
    assert len(notes) == 1


def test_auto_loads_no_engines_of_strangers_without_the_flag(
    with_engines: ModelLocation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch)
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "of-another-user"))
    notes: list[str] = []
    assert open_engine(with_engines, note=notes.append).name == "onnxruntime"
    assert "--trust-engines" in notes[0]
    trusting = EngineOptions(trust_engines=True)
    assert open_engine(with_engines, trusting).name == "tensorrt-rtx"


def test_auto_without_a_driver(with_engines: ModelLocation) -> None:
    """The packages are installed, and nothing runs them: the CPU does, and a note says why."""
    notes: list[str] = []
    assert open_engine(with_engines, note=notes.append).name == "onnxruntime"
    assert "driver" in notes[0]
