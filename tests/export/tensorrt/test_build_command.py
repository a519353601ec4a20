import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cuda_doubles import FakeCuda
from doubles import vqtrt
from tensorrt_doubles import pretend
from tensorrt_graphs import PROFILE, RTX, products, without_engines

from vqtrt.config.location import find_model
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import Device, Package
from vqtrt.errors import VqtrtError
from vqtrt.export.tensorrt import build as module
from vqtrt.export.tensorrt.build import Options, build_engines, build_plan, engine_options
from vqtrt.export.tensorrt.profiles import parse_batch, parse_sizes
from vqtrt.formats.bundle import Bundle

pytest.importorskip("tensorrt_rtx", reason='compiling needs pip install "vqtrt[rtx]"')


@pytest.fixture
def package() -> Package:
    return trt_package.load(RTX)


@pytest.fixture
def bundle(tiny_run, tmp_path) -> Bundle:
    return without_engines(tiny_run / "bundle", tmp_path)


def test_tensorrt_compiles_on_the_gpu_that_was_named(
    bundle: Bundle, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every thread that it builds in."""
    api, gpus = FakeCuda(devices=3), []
    fake = pretend(monkeypatch, api)
    monkeypatch.setattr(trt_package, "device", lambda index: Device(f"GPU {index}", "8.9"))

    class Builder:
        def __init__(self, logger: Any) -> None:
            gpus.append(api.cudaGetDevice()[1])
            self._real = package.module.Builder(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            gpus.append(api.cudaGetDevice()[1])
            return self._real.build_serialized_network(network, config)

    class Module:
        Runtime = fake.Runtime

        def __getattr__(self, name: str) -> Any:
            return Builder if name == "Builder" else getattr(package.module, name)

    fake.fails = {"Runtime"}  # this plan is none that the stand-in can load
    plain = Package("tensorrt", Module(), "11.4.0")
    build_plan(plain, products("fp32", "fp32"), PROFILE, device=2)
    assert gpus == [2, 2]
    options = Options(plain, device=1)
    monkeypatch.setattr(module, "build_plan", lambda *given, **how: gpus.append(how["device"]))
    with pytest.raises(AttributeError):  # it gave no plan
        build_engines(bundle, options)
    assert gpus == [2, 2, 1]
    assert engine_options(RTX, device=1).device == 1


def test_tensorrt_needs_a_gpu(bundle, package, monkeypatch):
    monkeypatch.setattr(trt_package, "device", lambda index: None)
    plain = dataclasses.replace(package, name="tensorrt", version="11.4.0")
    with pytest.raises(VqtrtError, match="none can be used here: take --target tensorrt-rtx"):
        build_engines(bundle, Options(plain))


def test_options_of_the_command():
    assert parse_batch("1,8,64") == (1, 8, 64)
    assert parse_batch("8") == (8, 8, 8)
    assert parse_sizes("32x48") == [(32, 48)] * 3
    assert parse_sizes("16,32X32,64x128") == [(16, 16), (32, 32), (64, 128)]
    for text in ("", "0", "1,2", "8,4,16", "1,2,3,4", "1,2,x", "-1", "1.5", "1 ,2,3", "9" * 30):
        with pytest.raises(VqtrtError, match="expected the least"):
            parse_batch(text)
    for text in ("", "0x8", "32x", "8x8,4x4,16x16", "8,8", "axb", "8x8x8", "32x32,", "9" * 30):
        with pytest.raises(VqtrtError, match="expected HxW"):
            parse_sizes(text)
    with pytest.raises(VqtrtError, match="no compute capability '9"):
        engine_options(RTX, compute_capabilities=["9.9"])


def test_the_command_builds_engines_of_a_bundle(bundle, capfd):
    command = ["export", bundle.path, "--target", RTX, "--batch", "1,2,4", "--json"]
    assert vqtrt(*command) == 0
    built = json.loads(capfd.readouterr().out)["engines"]
    assert set(built) == {"encoder", "decoder"}
    assert all(Path(each["engine"]).stat().st_size == each["bytes"] for each in built.values())
    assert vqtrt(*command[:-1]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert ["engines.encoder.built", "False"] in [line.split() for line in shown]
    assert vqtrt(*command, "--batch", "0") == 1
    assert "expected the least" in capfd.readouterr().err


def test_the_command_exports_a_run_and_builds(tiny_prior, tmp_path, capfd):
    out = shutil.copytree(tiny_prior / "bundle", tmp_path / "out")
    command = ["export", tiny_prior, "--out", out, "--no-verify", "--target", RTX, "--json"]
    assert vqtrt(*command, "--precision", "fp16", "--batch", "4") == 0
    shown, said = capfd.readouterr()
    assert "6 of its 12 graphs are unchanged" in said
    built = json.loads(shown)["engines"]
    assert len(built) == 6
    assert all(name.startswith("fp16/") for name in built)
    assert find_model(out).open_bundle().info.graphs.keys() > built.keys()


def test_a_machine_without_torch_compiles(bundle):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'safetensors'): sys.modules[name] = None\n"
        f"sys.argv = ['vqtrt', 'export', {str(bundle.path)!r}, '--target', 'tensorrt-rtx']\n"
        "from vqtrt.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(bundle.path.glob("engines/*.engine"))) == 2
