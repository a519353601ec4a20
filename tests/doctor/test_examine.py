import json
import re
import shutil
from pathlib import Path
from typing import Any

import cuda_doubles
import numpy as np
import onnx
import pytest
import speech_runs
import tensorrt_doubles
from doubles import vqtrt

from vqtrt.doctor import cuda as doctor_cuda
from vqtrt.doctor import engines as doctor_engines
from vqtrt.doctor import graph as doctor_graph
from vqtrt.doctor import machine as doctor_machine
from vqtrt.doctor import packages as doctor_packages
from vqtrt.doctor.examine import examine
from vqtrt.doctor.graph import SHA256, encode, fractions, graphs, steps, write_bundle
from vqtrt.doctor.report import Report
from vqtrt.engines import cuda
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt.package import Device
from vqtrt.formats.bundle import Bundle

OTHERS = re.compile(r"/(?:tmp|root|home|usr|opt|work|var|etc)\b|site-packages")


class Gpu(cuda_doubles.FakeCuda):
    """A GPU with memory to tell of."""

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, 7 * 2**30, 8 * 2**30


def test_the_gpu_of_these_tests_has_what_cuda_has() -> None:
    bindings = pytest.importorskip("cuda.bindings.runtime")
    assert callable(bindings.cudaMemGetInfo)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tensorrt_doubles.FakeTensorRT:
    """A machine with a GPU, and both packages of TensorRT; building writes what doubles load."""

    def build(bundle: Bundle, name: str, device: int) -> None:
        tensorrt_doubles.build(bundle, name, {"batch": (1, 64), "h": (8, 8), "w": (8, 8)})

    module = tensorrt_doubles.pretend(monkeypatch, Gpu())
    monkeypatch.setattr(doctor_engines, "build", build)
    monkeypatch.setattr(doctor_cuda, "_NBYTES", 1 << 12)
    monkeypatch.setattr(doctor_packages, "_version", lambda name: "13.0.1")
    monkeypatch.setattr(doctor_packages, "_onnxruntime", lambda report, gpus: None)
    return module


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a driver, whatever this one has."""
    monkeypatch.setattr(cuda, "runtime", lambda: cuda_doubles.FakeCuda(driver=0))
    monkeypatch.setattr(doctor_machine, "_version_without_bindings", lambda: None)


def statuses(report: Report) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def text_of(report: Report, name: str) -> str:
    return "; ".join(f"{c.text} {c.mend}".strip() for c in report.checks if c.name == name)


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_without_a_gpu_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SECRET", "a-token")
    monkeypatch.setattr(doctor_engines, "build", lambda bundle, name, device: None)
    report = examine()
    assert report.passed, report.as_text()
    found = statuses(report)
    assert found["onnxruntime"] == found["torch"] == found["tensorrt-rtx"] == "ok"
    assert "codes and steps as numpy's" in text_of(report, "onnxruntime")
    assert "no NVIDIA driver" in text_of(report, "driver")
    assert "not run: no GPU is here" in text_of(report, "tensorrt-rtx")
    assert 'not installed: pip install "vqtrt[gpu]"' in text_of(report, "tensorrt")
    text, content = report.as_text(), json.dumps(report.as_json())
    for shown in (text, content):
        assert not OTHERS.search(shown), OTHERS.search(shown)
        assert "a-token" not in shown
        assert "CUDA_VISIBLE_DEVICES=0,1" in shown
    assert text.endswith("ok)")


def test_a_machine_with_a_gpu(gpu: tensorrt_doubles.FakeTensorRT) -> None:
    report = examine()
    assert report.passed, report.as_text()
    assert text_of(report, "GPU 0").startswith("Fake GPU, compute capability 8.9, 7.0 of 8.0 GiB")
    assert "GB/s in" in text_of(report, "copies")
    assert "us a launch" in text_of(report, "graphs")
    for name in ("tensorrt", "tensorrt-rtx"):
        (line,) = (c for c in report.checks if c.name == name and c.section == "engines")
        assert line.status == "ok"
        assert "codes and steps as numpy's" in line.text
        assert ", captured" in line.text


def test_what_the_gpu_does_wrong_is_told(
    gpu: tensorrt_doubles.FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = gpu.api
    monkeypatch.setattr(type(api), "cudaGraphLaunch", lambda self, graph, stream: (0,))
    monkeypatch.setattr(type(api), "cudaMemsetAsync", lambda self, at, value, n, stream: (0,))
    found = statuses(examine())
    assert found["graphs"] == found["copies"] == "failed"


def test_a_gpu_that_the_package_does_not_support(
    gpu: tensorrt_doubles.FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device("NVIDIA H100", "9.0")
    monkeypatch.setattr(doctor_engines.trt_package, "device", lambda index=0: device)
    report = examine()
    assert 'pip install "vqtrt[gpu]"' in text_of(report, "tensorrt-rtx")
    assert not report.passed


@pytest.mark.usefixtures("no_gpu")
def test_an_engine_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(images: np.ndarray) -> Any:
        codes, margins = encode(images)
        return codes[::-1], margins

    monkeypatch.setattr(doctor_graph, "encode", other)
    monkeypatch.setattr(doctor_engines, "build", lambda bundle, name, device: None)
    report = examine()
    failed = [check.name for check in report.checks if check.status == "failed"]
    assert failed == ["onnxruntime", "torch"]
    assert "codes are not those of numpy in a batch of 64" in text_of(report, "onnxruntime")
    assert "something does not work" in report.as_text()


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("module", "name", "line"),
    [
        (doctor_machine, "usable_cores", "cores"),
        (doctor_machine, "_driver", "driver"),
        (doctor_packages, "_onnxruntime", "onnxruntime"),
        (doctor_packages, "_tensorrt", "tensorrt-rtx"),
        (doctor_engines, "_run", "onnxruntime"),
        (doctor_engines, "_torch", "torch"),
        (doctor_engines, "_tensorrt", "tensorrt-rtx"),
        (doctor_engines, "examine_engines", "engines"),
        (doctor_graph, "write_bundle", "built-in model"),
    ],
)
def test_whatever_is_raised_is_a_line(
    module: Any, name: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*args: object) -> None:
        raise ZeroDivisionError("of a\nkind that /usr/lib/nobody/expects.so raises")

    for part in ("_onnxruntime", "_torch"):
        monkeypatch.setattr(doctor_engines, part, lambda *args: None)
    monkeypatch.setattr(doctor_engines, "build", lambda bundle, name, device: None)
    if name == "_run":
        monkeypatch.undo()
        monkeypatch.setattr(cuda, "runtime", lambda: cuda_doubles.FakeCuda(driver=0))
        monkeypatch.setattr(doctor_engines, "_torch", lambda *args: None)
        monkeypatch.setattr(doctor_engines, "build", lambda bundle, name, device: None)
    if name == "examine_engines":
        monkeypatch.setattr("vqtrt.doctor.examine.examine_engines", raises)
    monkeypatch.setattr(module, name, raises)
    report = examine()
    told = "ZeroDivisionError: of a kind that expects.so raises (not expected: please report"
    assert told in text_of(report, line)
    assert not report.passed


def test_packages_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_packages, "_version", lambda name: "13.0")
    monkeypatch.setattr(cuda, "runtime", lambda: Gpu(driver=12040))
    report = Report()
    doctor_packages._onnxruntime(report, 1)
    doctor_packages._cuda_python(report, 1)
    assert [check.status for check in report.checks] == ["failed", "failed"]
    assert "are both installed" in text_of(report, "onnxruntime")
    assert 'pip install "cuda-python<13"' in text_of(report, "cuda-python")


def test_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_packages, "_version", lambda name: None)
    monkeypatch.setattr(doctor_packages, "installed", lambda name: False)
    monkeypatch.setattr(doctor_packages.trt_package, "installed", lambda name: False)
    for gpus, extra in ((0, "cpu"), (1, "gpu")):
        report = Report()
        doctor_packages.examine_packages(report, gpus)
        assert report.passed
        assert f'pip install "vqtrt[{extra}]"' in text_of(report, "onnxruntime")
        assert 'pip install "vqtrt[train]"' in text_of(report, "torch")
        assert 'pip install "vqtrt[rtx]"' in text_of(report, "tensorrt-rtx")


def test_a_driver_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise doctor_machine.VqtrtError("not installed")

    monkeypatch.setattr(cuda, "runtime", missing)
    monkeypatch.setattr(doctor_machine, "_version_without_bindings", lambda: 12040)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    report = Report()
    assert doctor_machine.examine_machine(report) == 0
    assert statuses(report)["driver"] == statuses(report)["variables"] == "warning"
    assert "CUDA 12.4, but cuda-python is not installed" in text_of(report, "driver")


@pytest.mark.parametrize("kind", ["conv", "wavenet"])
@pytest.mark.usefixtures("no_gpu")
def test_a_model_of_speech(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    model = speech_runs.exported(kind)
    report = examine(model.run)
    assert report.passed, report.as_text()
    assert "64 clips of noise" in text_of(report, "onnxruntime")
    assert ("onnxruntime step" in statuses(report)) == (kind == "wavenet")
    if kind == "wavenet":
        assert "512 runs" in text_of(report, "onnxruntime step")


@pytest.mark.usefixtures("no_gpu")
def test_a_model_of_images_and_its_prior(
    tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    report = examine(tiny_prior)
    assert report.passed, report.as_text()
    assert "takes onnxruntime" in text_of(report, "auto")
    assert "64 pictures of noise" in text_of(report, "onnxruntime")
    assert "2 runs" in text_of(report, "onnxruntime priors/pixelcnn/row")
    assert not OTHERS.search(report.as_text())
    bundle = shutil.copytree(tiny_prior / "bundle", tmp_path / "bundle")
    (bundle / "encoder.onnx").write_bytes(b"damaged")
    report = examine(bundle)
    assert statuses(report)["files"] == statuses(report)["onnxruntime"] == "failed"
    assert "BUNDLE/encoder.onnx is damaged" in text_of(report, "files")
    report = examine(tmp_path / "nothing")
    assert "no such run or bundle" in text_of(report, "model")


def test_the_plans_of_a_model(
    gpu: tensorrt_doubles.FakeTensorRT, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    tensorrt_doubles.build(bundle, "tensorrt-rtx", {"batch": (1, 64), "h": (4, 4), "w": (4, 4)})
    report = examine(bundle.path)
    assert text_of(report, "tensorrt-rtx plans").endswith(
        "7168 MiB that are free; 2 of 2 graphs load"
    )
    assert any(c.section == "model" and c.name == "tensorrt-rtx" for c in report.checks)
    for plan in (bundle.path / "engines").glob("*.engine"):
        plan.write_bytes(b"damaged")
    assert "is damaged" in text_of(examine(bundle.path), "tensorrt-rtx encoder")


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the model alone."""
    monkeypatch.setattr("vqtrt.doctor.examine.examine_engines", lambda *args: None)
    monkeypatch.setattr("vqtrt.doctor.examine.examine_packages", lambda *args: None)


@pytest.mark.usefixtures("no_gpu")
def test_the_command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    assert vqtrt("doctor", "--json") == 0
    out = capfd.readouterr().out
    content = json.loads(out)
    assert content["passed"] is True
    assert set(content["checks"][0]) == {"section", "name", "status", "text", "mend"}
    assert vqtrt("doctor", "nothing/here") == 1
    out, err = capfd.readouterr()
    assert "failed   model" in out
    assert "Traceback" not in out + err


def test_the_built_in_graphs_are_what_they_were(tmp_path: Path) -> None:
    """Written byte by byte, without onnx: its own checker finds nothing wrong with them."""
    import hashlib

    for name, (content, _, _) in graphs().items():
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        assert hashlib.sha256(content).hexdigest() == SHA256[name]
        assert len(content) < 5000
    bundle = write_bundle(tmp_path)
    engine = OnnxRuntimeEngine(bundle, EngineOptions(threads=1))
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    codes, margins = encode(images)
    np.testing.assert_array_equal(engine.open("encoder")(images), codes)
    assert margins.min() > 0
    assert len(np.unique(codes)) > 5
    bound = engine.bind("step", {"batch": 2})
    inputs = np.random.default_rng(2).standard_normal((5, 2, 16), dtype=np.float32)
    for x, expected in zip(inputs, steps(inputs), strict=True):
        bound.inputs["x"][...] = x
        bound.run()
        np.testing.assert_allclose(bound.outputs["y"], expected, atol=1e-5)


def test_weights_need_more_bits_than_tf32_keeps() -> None:
    weights = fractions(1000, seed=1)
    kept = (weights.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    assert (kept != weights).mean() > 0.99
    assert -0.5 <= weights.min() < -0.4
    assert 0.4 < weights.max() < 0.5


def test_folders_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = Report()
    for folder in (Path(), Path("runs/a"), Path("runs/a/bundle")):
        report.hide(folder, f"<{folder.name or 'here'}>")
    report.ok("x", f"1.5 of {tmp_path}/runs/a/bundle/encoder.onnx and runs/a/priors, docs/a.md")
    report.failed("y", f"{tmp_path}/x.txt, /usr/lib/x86_64/libz.so.1: gone", "see docs/tensorrt.md")
    first, second = report.checks
    assert first.text == "1.5 of <bundle>/encoder.onnx and <a>/priors, docs/a.md"
    assert (second.text, second.mend) == ("<here>/x.txt, libz.so.1: gone", "see docs/tensorrt.md")
