"""The packages: which are installed, which do not go together, and how to get what is missing."""

import importlib.metadata
import re

from vqtrt.doctor.report import Report
from vqtrt.engines import cuda
from vqtrt.engines.choose import installed
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.errors import VqtrtError

_BASE = ("numpy", "pillow", "pydantic", "pyyaml", "typer")
_EXTRAS = {
    "soundfile": ("speech", "recordings cannot be read"),
    "pyarrow": ("scale", "Parquet and Arrow files cannot be read"),
    "fsspec": ("scale", "data behind URLs cannot be read"),
    "torch": ("train", "no training, no export, no engine torch"),
    "onnx": ("train", "no export"),
}


def examine_packages(report: Report, gpus: int) -> None:
    """Add a line a package; what only a GPU needs is asked for only where there is one."""
    report.section = "packages"
    with report.checking("base"):
        report.ok("base", ", ".join(f"{name} {_version(name) or 'missing'}" for name in _BASE))
    with report.checking("onnxruntime"):
        _onnxruntime(report, gpus)
    for name, (extra, lacks) in _EXTRAS.items():
        with report.checking(name):
            version = _version(name)
            report.ok(name, version or f'not installed ({lacks}): pip install "vqtrt[{extra}]"')
    with report.checking("cuda-python"):
        _cuda_python(report, gpus)
    for package in trt_package.NAMES:
        with report.checking(package):
            _tensorrt(report, package, gpus)


def _onnxruntime(report: Report, gpus: int) -> None:
    both = {name: _version(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    found = [f"{name} {version}" for name, version in both.items() if version]
    if len(found) == 2:
        report.failed(
            "onnxruntime",
            f"{' and '.join(found)} are both installed, and write into the same folder",
            'pip uninstall onnxruntime onnxruntime-gpu, then pip install "vqtrt[cpu]" or '
            '"vqtrt[gpu]"',
        )
        return
    if not installed("onnxruntime"):
        extra = "gpu" if gpus else "cpu"
        report.warning(
            "onnxruntime",
            "not installed: bundles run with TensorRT alone, or not at all",
            f'pip install "vqtrt[{extra}]"',
        )
        return
    import onnxruntime

    providers = [
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    ]
    text = f"{found[0] if found else onnxruntime.__version__} ({', '.join(providers)})"
    if gpus and "CUDA" not in providers:
        report.warning(
            "onnxruntime",
            f"{text}: it does not use the GPU",
            'pip uninstall onnxruntime, then pip install "vqtrt[gpu]"',
        )
    else:
        report.ok("onnxruntime", text)


def _cuda_python(report: Report, gpus: int) -> None:
    version = _version("cuda-bindings")
    if version is None:
        missing = 'not installed: pip install "vqtrt[gpu]" or "vqtrt[rtx]"'
        if gpus:
            report.warning("cuda-python", missing)
        else:
            report.ok("cuda-python", f"{missing}, if there is an NVIDIA GPU")
        return
    if not gpus:
        report.ok("cuda-python", f"cuda-bindings {version}")
        return
    known = int(cuda.call("cudaDriverGetVersion")) // 1000
    wanted = int(version.partition(".")[0])
    if wanted > known:
        report.failed(
            "cuda-python",
            f"cuda-bindings {version} is for CUDA {wanted}, and the driver knows CUDA {known}",
            f'update the driver, or pip install "cuda-python<{known + 1}"',
        )
    else:
        report.ok("cuda-python", f"cuda-bindings {version}, the driver knows CUDA {known}")


def _tensorrt(report: Report, name: trt_package.PackageName, gpus: int) -> None:
    if not trt_package.installed(name):
        extra = "rtx" if name == "tensorrt-rtx" else "gpu"
        report.ok(name, f'not installed: pip install "vqtrt[{extra}]", if there is an NVIDIA GPU')
        return
    package = trt_package.load(name)
    wheels = sorted(
        {
            f"{wheel} {_version(wheel)}"
            for wheel in importlib.metadata.packages_distributions().get(
                package.module.__name__, ()
            )
        }
    )
    text = " ".join([package.version, *(f"({wheel})" for wheel in wheels)])
    device = trt_package.device(0) if gpus else None
    try:
        package.check_device(device)
    except VqtrtError as error:
        report.warning(name, f"{text}: {error}")
        return
    report.ok(name, text)


def _version(name: str) -> str | None:
    """Of a distribution; None if it is not installed."""
    try:
        return re.sub(r"[^\w.+-]", "", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return None
