import pytest

from vqtrt.artefacts import Artefacts
from vqtrt.cli_options import EngineName
from vqtrt.engines import ENGINES, EngineOptions, choose, installed, open_engine
from vqtrt.errors import VqtrtError


@pytest.fixture
def both(tiny_run, tiny_bundle):
    return Artefacts(tiny_run, tiny_bundle, "named")


@pytest.fixture
def run_alone(tiny_run):
    return Artefacts(tiny_run, None, "named")


@pytest.fixture
def bundle_alone(tiny_bundle):
    return Artefacts(None, tiny_bundle, "named")


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
