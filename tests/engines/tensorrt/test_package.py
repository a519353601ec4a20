import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
from cuda_doubles import FakeCuda
from tensorrt_doubles import FakeTensorRT

from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import Device, Package, device, load
from vqtrt.errors import VqtrtError

GPUS = {7: b"NVIDIA L4", 8: b"NVIDIA T4"}
FLAGS = SimpleNamespace(STRONGLY_TYPED=1)


def fake(monkeypatch, name: str, version: str | None) -> SimpleNamespace:
    """A package of that version stands where the real one would."""
    module = SimpleNamespace(__version__=version, NetworkDefinitionCreationFlag=FLAGS)
    module.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_what_is_not_installed_says_what_to_install(monkeypatch, name, extra):
    found = importlib.util.find_spec
    missing = {"tensorrt", "tensorrt_rtx"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else found(name)
    )
    with pytest.raises(VqtrtError) as error:
        load(name)
    assert str(error.value) == f'{name} is not installed: pip install "vqtrt[{extra}]"'


def test_no_other_package():
    with pytest.raises(
        VqtrtError, match="no package 'torch': choose one of tensorrt, tensorrt-rtx"
    ):
        load("torch")


@pytest.mark.parametrize(
    ("name", "version", "flags"),
    [
        ("tensorrt", "10.13.0.35", 2),
        ("tensorrt", "10.16.1", 2),
        ("tensorrt", "11.0.0.1", 0),
        ("tensorrt", "11.4.0.1", 0),
        ("tensorrt-rtx", "1.7.1.116", 0),
    ],
)
def test_versions_that_are_supported(monkeypatch, name, version, flags):
    module = fake(monkeypatch, name.replace("-", "_"), version)
    package = load(name)
    assert (package.name, package.version, package.module) == (name, version, module)
    assert package.network_flags() == flags
    assert package.has_runtime_cache is package.is_rtx is not package.has_timing_cache


@pytest.mark.parametrize(
    ("name", "version", "span"),
    [
        ("tensorrt", "10.12.9", "10.13 to 11.4"),
        ("tensorrt", "8.6.1", "10.13 to 11.4"),
        ("tensorrt", "11.5.0", "10.13 to 11.4"),
        ("tensorrt", None, "10.13 to 11.4"),
        ("tensorrt", "dev", "10.13 to 11.4"),
        ("tensorrt-rtx", "1.6.0", "1.7"),
        ("tensorrt-rtx", "1.8.0", "1.7"),
    ],
)
def test_versions_that_are_not(monkeypatch, name, version, span):
    fake(monkeypatch, name.replace("-", "_"), version)
    with pytest.raises(VqtrtError, match=rf"^{name} {version} is not supported, only {span}: pip "):
        load(name)


def test_a_package_that_cannot_be_loaded(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so:\\n no such file')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VqtrtError, match=r"cannot be loaded \(libnvinfer.so: no such file\); inst"):
        load("tensorrt")


def test_compute_capabilities():
    members = {"NONE": 0, "CURRENT": 1, "SM75": 2, "SM89": 3, "SM120": 4}
    module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=members))
    package = Package("tensorrt-rtx", module, "1.7.1")
    assert package.compute_capability("8.9") == 3
    assert package.compute_capability("12.0") == 4
    with pytest.raises(VqtrtError, match=r"no compute capability '9.0': choose among 7.5, 8.9, 12"):
        package.compute_capability("9.0")
    with pytest.raises(VqtrtError, match="leave out --compute-capability"):
        Package("tensorrt", module, "11.0").compute_capability("8.9")


def test_gpus_that_rtx_supports() -> None:
    module = FakeTensorRT(FakeCuda())
    package = Package("tensorrt-rtx", module, "1.7.1")
    package.check_device(Device("NVIDIA L4", "8.9"))
    package.check_device(None)
    Package("tensorrt", module, "11.0").check_device(Device("NVIDIA H100", "9.0"))
    for capability in ("9.0", "10.0", "7.0"):
        with pytest.raises(VqtrtError, match=rf"does not support .*{capability}.*pip install"):
            package.check_device(Device("NVIDIA X", capability))


def test_the_real_one_of_rtx(monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason='pip install "vqtrt[rtx]"')
    package = load("tensorrt-rtx")
    assert package.compute_capability("8.9") == package.module.ComputeCapability.SM89
    for supported in ("8.0", "8.6", "8.9", "12.0"):
        package.check_device(Device("a GPU", supported))
    with pytest.raises(VqtrtError, match=r"does not support NVIDIA H100 80GB HBM3: .* 9\.0"):
        package.check_device(Device("NVIDIA H100 80GB HBM3", "9.0"))
    severity, mark = package.module.ILogger.Severity, package.log_mark()
    with package.logging() as lines:
        package.logger.log(severity.ERROR, "what went wrong")
        package.logger.log(severity.VERBOSE, "what nobody reads")
    package.logger.log(severity.ERROR, "after the block")
    assert lines == ["ERROR: what went wrong"]
    assert package.reason(mark) == lines[0]
    assert package.logger is load("tensorrt-rtx").logger


def quiet() -> Package:
    return Package("tensorrt-rtx", FakeTensorRT(FakeCuda()), "1.7.1")


def test_the_first_error_is_the_reason() -> None:
    package = quiet()
    logger, severity = package.logger, package.module.ILogger.Severity
    logger.log(severity.ERROR, "of an earlier call")
    mark = package.log_mark()
    assert package.reason(mark) == ""
    logger.log(severity.INFO, "no reason")
    logger.log(severity.ERROR, "[x.cpp::catchCudaError::250] Error Code 1")
    assert package.reason(mark) == "ERROR: [x.cpp::catchCudaError::250] Error Code 1"
    logger.log(severity.INTERNAL_ERROR, "the cause,\nin two lines")
    logger.log(severity.ERROR, "what follows from it")
    assert package.reason(mark) == "INTERNAL_ERROR: the cause, in two lines"
    for _ in range(200):
        logger.log(severity.INFO, "and so on")
    assert package.reason(mark) == ""
    assert len(logger.recent) == 100


def test_threads_do_not_take_each_others_lines() -> None:
    package = quiet()
    log = package.logger.log
    with package.logging() as outer:
        with package.logging() as inner:
            log(package.module.ILogger.Severity.INFO, "in both")
        log(package.module.ILogger.Severity.INFO, "in one")
    log(package.module.ILogger.Severity.INFO, "in none")
    assert (inner, outer) == (["INFO: in both"], ["INFO: in both", "INFO: in one"])
    assert package.logger.listeners == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", []),
        ("error", ["ERROR"]),
        ("INFO", ["ERROR", "WARNING", "INFO"]),
        ("verbose", ["ERROR", "WARNING", "INFO", "VERBOSE"]),
    ],
)
def test_the_log_is_shown_by_a_variable(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    value: str,
    shown: list[str],
) -> None:
    monkeypatch.setenv("VQTRT_TRT_LOG", value)
    package = quiet()
    severities = package.module.ILogger.Severity
    for name in ("ERROR", "WARNING", "INFO", "VERBOSE"):
        package.logger.log(severities[name], "text")
    assert capsys.readouterr().err == "".join(f"tensorrt: {name}: text\n" for name in shown)


def test_a_severity_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "tensorrt_rtx", "1.7.1")
    monkeypatch.setenv("VQTRT_TRT_LOG", "loud")
    with pytest.raises(VqtrtError, match="VQTRT_TRT_LOG is 'loud': set it to one of error, warn"):
        load("tensorrt-rtx")


def test_the_device(monkeypatch):
    def driver(status=0, count=1):
        kind = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
        )
        return SimpleNamespace(
            CUdevice_attribute=kind,
            cuInit=lambda flags: (status,),
            cuDeviceGet=lambda index: (0 if index < count else 101, 7 + index),
            cuDeviceGetName=lambda length, gpu: (0, GPUS[gpu].ljust(length, b"\0")),
            cuDeviceGetAttribute=lambda which, gpu: (0, {"major": 8, "minor": 9}[which]),
        )

    def here(module):
        monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(driver=module))
        return device()

    def no_library(flags):
        raise RuntimeError("no libcuda")

    assert here(driver(count=2)) == Device("NVIDIA L4", "8.9")
    assert device(1) == Device("NVIDIA T4", "8.9")
    assert device(2) is None
    assert here(driver(status=100)) is None
    assert here(driver(count=0)) is None
    assert here(SimpleNamespace(cuInit=no_library)) is None
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert device() is None


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, vqtrt.engines.tensorrt.plans, vqtrt.engines.tensorrt.package\n"
        "import vqtrt.export.tensorrt.build\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'cuda'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_names_are_those_of_the_command():
    from vqtrt.commands.export import TargetName

    assert tuple(name.value for name in TargetName) == trt_package.NAMES
