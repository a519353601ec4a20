from pathlib import Path

import numpy as np
import pytest
from tensorrt_bundles import PACKAGES, copied, pictures
from tensorrt_doubles import GPU, FakeTensorRT, pretend

from vqtrt.config.location import ModelLocation
from vqtrt.engines.choose import _loaded
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.engines.tensorrt.package import Device
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle


@pytest.fixture
def module(monkeypatch):
    return pretend(monkeypatch)


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return copied(tiny_bundle, tmp_path)


def test_what_tensorrt_refuses_is_one_line(bundle, module):
    engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    module.fails = {"deserialize_cuda_engine"}
    with pytest.raises(VqtrtError, match=r"the plan is for another GPU.*vqtrt export") as error:
        engine.open("encoder")
    assert "\n" not in str(error.value)
    module.fails = {"create_execution_context"}
    encode = engine.open("encoder")
    with pytest.raises(VqtrtError, match=r"cannot make an execution context \(ERROR: no context"):
        encode(pictures(1))
    module.fails = {"execute_async_v3"}
    with pytest.raises(VqtrtError, match=r"failed to run \(ERROR: enqueue failed\)"):
        encode(pictures(9))
    module.fails = set()
    reference = OnnxRuntimeEngine(bundle).open("encoder")
    np.testing.assert_array_equal(encode(pictures(9)), reference(pictures(9)))


def test_a_gpu_that_rtx_does_not_support(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpu=Device("NVIDIA H100", "9.0"))
    with pytest.raises(VqtrtError, match=r"does not support NVIDIA H100.*9\.0.*\[gpu\]") as error:
        TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    assert "build it again" not in str(error.value)
    assert "engines run on 7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in str(error.value)
    # `auto` goes on to the next engine, and `tensorrt` is not concerned.
    notes: list[str] = []
    model = ModelLocation(None, bundle.path, "named")
    assert _loaded(model, EngineOptions(engine="tensorrt-rtx"), notes.append) is None
    assert "does not support NVIDIA H100" in notes[0]
    monkeypatch.setattr(trt_package, "device", lambda index=0: Device(GPU.name, "9.0"))
    assert TensorRTEngine(bundle, EngineOptions("tensorrt")).name == "tensorrt"


@pytest.mark.parametrize("package", PACKAGES)
def test_what_the_packages_raise_is_one_line(
    bundle: Bundle, module: FakeTensorRT, package: str
) -> None:
    engine = TensorRTEngine(bundle, EngineOptions(package))
    module.fails = {"Runtime"}
    with pytest.raises(VqtrtError, match=r"cannot start here \(ERROR: CUDA init") as error:
        engine.open("encoder")
    assert "\n" not in str(error.value)
    module.fails = {"infer_shapes"}
    with pytest.raises(VqtrtError, match=r"cannot infer shapes \(shape inference"):
        engine.open("encoder")(pictures(1))
    module.fails = set()
    reference = OnnxRuntimeEngine(bundle).open("encoder")
    np.testing.assert_array_equal(engine.open("encoder")(pictures(1)), reference(pictures(1)))


def test_the_first_cause_is_told(bundle: Bundle, module: FakeTensorRT) -> None:
    engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    module.fails = {"deserialize_cuda_engine"}
    with pytest.raises(VqtrtError, match=r"\(ERROR: the plan is for another GPU\); build it again"):
        engine.open("encoder")
    # What was said of an earlier call is not told of a later one.
    module.fails = set()
    encode = engine.open("encoder")
    (context,) = [encode(pictures(1)) is not None and module.contexts[0]]
    context._module.say = lambda text: None
    with pytest.raises(VqtrtError, match=r"refuses the shape \(9, 8, 12, 3\) of images; build it"):
        engine.plan("encoder", {}).context(captured=True, graphs=True).prepare(
            {"images": (9, 8, 12, 3)}
        )


def test_a_gpu_that_loads_but_is_not_supported(bundle: Bundle, module: FakeTensorRT) -> None:
    """The library's word, where the table of capabilities had it otherwise."""
    engine = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    module.capability = "9.0"
    with pytest.raises(VqtrtError, match="does not support this compute capability") as error:
        engine.open("encoder")
    assert "build it again" not in str(error.value)
    assert "pass another --engine" in str(error.value)


def test_engines_of_others_are_not_loaded_unasked(
    bundle: Bundle, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plan is code. `auto` goes on to an engine that does not run it."""
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "other"))
    assert not module.loggers  # no runtime was made, so no plan was read
    with pytest.raises(VqtrtError, match=r"was not built by this user .* --trust-engines") as error:
        TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")
    assert "\n" not in str(error.value)
    notes: list[str] = []
    model = ModelLocation(None, bundle.path, "named")
    assert _loaded(model, EngineOptions(engine="tensorrt-rtx"), notes.append) is None
    assert "--trust-engines" in notes[0]
    assert not module.loggers  # no runtime was made, so no plan was read
    encode = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx", trust_engines=True)).open(
        "encoder"
    )
    reference = OnnxRuntimeEngine(bundle).open("encoder")
    np.testing.assert_array_equal(encode(pictures(3)), reference(pictures(3)))
