import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from doubles import flip_byte, vqtrt
from onnx import TensorProto, helper
from tensorrt_graphs import PROFILE, RTX, model, products, without_engines

from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import Package
from vqtrt.engines.tensorrt.plan_info import Profile
from vqtrt.engines.tensorrt.plans import find_plan, read_plan
from vqtrt.errors import VqtrtError
from vqtrt.export.tensorrt import build as module
from vqtrt.export.tensorrt.build import (
    Options,
    activation_bytes,
    build_engines,
    build_plan,
    in_loop,
)
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.precision import PRECISIONS

pytest.importorskip("tensorrt_rtx", reason='compiling needs pip install "vqtrt[rtx]"')


@pytest.fixture
def package() -> Package:
    return trt_package.load(RTX)


@pytest.fixture
def bundle(tiny_run, tmp_path) -> Bundle:
    return without_engines(tiny_run / "bundle", tmp_path)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_of_a_run_compiles(half_run, package, precision, tmp_path):
    shutil.copytree(half_run / "bundle", tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    told = []
    results = build_engines(
        bundle, Options(package), [precision], progress=lambda done, total: told.append(done)
    )
    prefix = "" if precision == "fp32" else f"{precision}/"
    parts = ["row", "step", "step_filtered", "logits"]
    names = ["encoder", "decoder", *(f"priors/pixelcnn/{part}" for part in parts)]
    assert set(results) == {prefix + name for name in names}
    assert told == sorted(told)
    assert told[-1] == 100
    for name in names:
        result = results[prefix + name]
        assert result["built"]
        here = {"package": RTX, "version": package.version}
        path, info = find_plan(bundle, name, precision, **here, fits={"batch": 64})
        assert str(path) == result["engine"]
        assert len(read_plan(bundle, path, **here)) == result["bytes"] == info.plan_bytes
        layers = json.loads(path.with_suffix(".layers.json").read_text())["network"]
        assert any(layer["type"] in ("CONVOLUTION", "MATRIX_MULTIPLY") for layer in layers)
        assert "Engine generation completed" in path.with_suffix(".log").read_text()


def test_engines_that_are_whole_are_kept(bundle, package):
    first = build_engines(bundle, Options(package))
    path = Path(first["decoder"]["engine"])
    flip_byte(path, 1000)
    written = Path(first["encoder"]["engine"]).stat().st_mtime_ns
    second = build_engines(bundle, Options(package))
    assert [second[name]["built"] for name in ("encoder", "decoder")] == [False, True]
    assert Path(second["encoder"]["engine"]).stat().st_mtime_ns == written
    assert second["encoder"]["bytes"] == first["encoder"]["bytes"]
    assert read_plan(bundle, path, package=RTX, version=package.version)
    other = build_engines(bundle, Options(package, batch=(1, 1, 1), compute_capabilities=("8.9",)))
    assert all(result["built"] for result in other.values())
    assert len(list(path.parent.glob("*.engine"))) == 4


def test_the_parser_says_what_it_refuses(package):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0], name="early"),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
    ]
    content = model(
        nodes, [("x", TensorProto.UINT8, ["n", 4])], [("y", TensorProto.FLOAT, [4, "n"])]
    )
    with pytest.raises(VqtrtError) as error:
        build_plan(package, content, PROFILE)
    assert "cannot parse it" in str(error.value)
    assert "early and operator: Transpose" in str(error.value)
    assert "first input has type UInt8" in str(error.value)
    assert "\n" not in str(error.value)
    assert "catchCudaError" not in str(error.value)  # no build needs the driver
    with pytest.raises(VqtrtError, match="Failed to parse the ONNX model"):
        build_plan(package, b"no onnx", PROFILE)


def test_a_refused_graph_is_named(bundle, package):
    node = helper.make_node("Multinomial", ["x"], ["y"], sample_size=3)
    content = model(
        [node], [("x", TensorProto.FLOAT, ["n", 4])], [("y", TensorProto.INT32, ["n", 3])]
    )
    bundle.graph_bytes = lambda name: content
    with pytest.raises(VqtrtError, match=r"the graph 'encoder': .*Multinomial"):
        build_engines(bundle, Options(package))
    assert not (bundle.path / "engines").exists()


def test_an_interrupted_build_stops(package, half_run, monkeypatch):
    monkeypatch.setattr(module, "_TICK", 0.001)
    bundle = Bundle.open(half_run / "bundle")
    content = bundle.graph_bytes("priors/pixelcnn/logits")
    shapes = (1, 4, 4, 1), (2, 4, 4, 1), (3, 4, 4, 1)
    profile: Profile = {"codes": shapes, "labels": ((1,), (2,), (3,))}

    def interrupt(share):
        raise KeyboardInterrupt

    with package.logging() as log, pytest.raises(KeyboardInterrupt):
        build_plan(package, content, profile, progress=interrupt)
    assert log  # of the builder, until it stopped
    assert build_plan(package, content, profile).plan


class Timed(Package):
    has_timing_cache = True


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # RTX has the calls, and ignores them
def test_a_timing_cache_is_kept(package, tmp_path):
    path = tmp_path / "engines" / "gpu.timing-cache"
    timed = Timed(package.name, package.module, package.version)
    for _ in range(2):
        assert build_plan(timed, products("fp32", "fp32"), PROFILE, timing_cache=path).plan
        assert path.stat().st_size > 32
        flip_byte(path, 40)
    assert build_plan(package, products("fp32", "fp32"), PROFILE, timing_cache=tmp_path / "x").plan
    assert not (tmp_path / "x").exists()


def test_engines_of_priors_allocate_nothing_while_they_run(
    tiny_prior, package, monkeypatch, tmp_path
):
    asked = []

    def build(*given, capturable, **options):
        asked.append(capturable)
        return build_plan(*given, capturable=capturable, **options)

    monkeypatch.setattr("vqtrt.export.tensorrt.build.build_plan", build)
    shutil.copytree(tiny_prior / "bundle", tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    results = build_engines(bundle, Options(package))
    assert asked == [name.startswith("priors/") for name in results]
    assert len(set(asked)) == 2
    # It is written down, and so are the memory of a context and the batches that it is fastest at.
    here = {"package": RTX, "version": package.version}
    for name, result in results.items():
        _, info = find_plan(bundle, name, "fp32", **here)
        assert info.capturable == name.startswith("priors/") == in_loop(name)
        assert info.activation_bytes == result["activation_bytes"]
        batches = [shapes[0] for shapes in next(iter(info.profile.values()))]
        if name in ("encoder", "decoder"):
            assert batches == [1, 64, 64]
            # Of 64 pictures, and not of one or of a thousand.
            assert 64 * 16 * 16 * 3 < result["activation_bytes"] < 2**30
        elif name.endswith("/logits"):
            assert batches == [1, 16, 64]


def test_the_memory_that_a_builder_tells() -> None:
    log = ["INFO: Total Activation Memory: 17 bytes", "INFO: Total Activation Memory: 4096 bytes"]
    assert activation_bytes(log) == 4096
    assert activation_bytes(["INFO: Total Weights Memory: 16 bytes"]) is None


def refusing(package: Package, name: str) -> Package:
    """The package, in which one class cannot be made, as pybind11 says it."""

    def refuse(*given: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    class Module:
        def __getattr__(self, asked: str) -> Any:
            return refuse if asked == name else getattr(package.module, asked)

    return dataclasses.replace(package, module=Module())


@pytest.mark.parametrize("name", ["Builder", "OnnxParser"])
def test_a_builder_that_cannot_start_is_one_line(
    bundle: Bundle, package: Package, name: str
) -> None:
    with pytest.raises(VqtrtError, match=r"'encoder': tensorrt-rtx .* cannot build: ") as error:
        build_engines(bundle, Options(refusing(package, name)))
    assert "\n" not in str(error.value)


def test_an_engine_that_others_built_is_built_again(
    bundle: Bundle, package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The advice for an engine that is not trusted is to build: that must not adopt it."""
    graphs = {"decoder": bundle.info.graphs["decoder"]}
    bundle = Bundle(bundle.path, bundle.info.model_copy(update={"graphs": graphs}))
    assert build_engines(bundle, Options(package))["decoder"]["built"]
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "another-user"))
    again = build_engines(bundle, Options(package))["decoder"]
    assert (again["built"], again["trusted"]) == (True, True)
    assert not build_engines(bundle, Options(package))["decoder"]["built"]


def test_without_a_state_folder_it_is_built_all_the_same(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "state"))
    assert vqtrt("export", bundle.path, "--target", RTX, "--json") == 0
    shown, said = capfd.readouterr()
    assert {each["trusted"] for each in json.loads(shown)["engines"].values()} == {False}
    assert "--trust-engines" in said
    assert "VQTRT_STATE" in said
