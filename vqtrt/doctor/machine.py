"""The machine: system, driver and GPUs, and the three variables that change what GPUs compute."""

import os
import platform
import sys
from typing import Any

from vqtrt.doctor.report import Report
from vqtrt.engines import cuda
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.errors import VqtrtError
from vqtrt.system.cores import usable_cores
from vqtrt.version import __version__

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE")
_DRIVER = "if this machine has an NVIDIA GPU, install NVIDIA's driver"


def examine_machine(report: Report) -> int:
    """Add what the machine is; returns the number of GPUs that can be used."""
    report.section = "machine"
    report.ok("vqtrt", f"{__version__}, Python {platform.python_version()} {sys.platform}")
    report.ok("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    with report.checking("cores"):
        report.ok("cores", str(usable_cores()))
    gpus = report.attempt("driver", lambda: _driver(report)) or 0
    for index in range(gpus):
        with report.checking(f"GPU {index}"):
            _gpu(report, index)
    with report.checking("variables"):
        _variables(report)
    return gpus


def _driver(report: Report) -> int:
    """Add the driver's line; returns the number of GPUs."""
    try:
        api = cuda.runtime()
    except VqtrtError:
        version = _version_without_bindings()
        if version is None:
            report.ok("driver", f"no NVIDIA driver: engines run on the CPU; {_DRIVER}")
        else:
            report.warning(
                "driver",
                f"CUDA {_dotted(version)}, but cuda-python is not installed, which TensorRT needs",
                'pip install "vqtrt[gpu]", or "vqtrt[rtx]" for TensorRT for RTX',
            )
        return 0
    version = int(_value(api.cudaDriverGetVersion()))
    if not version:
        report.ok("driver", f"no NVIDIA driver: engines run on the CPU; {_DRIVER}")
        return 0
    status, count = api.cudaGetDeviceCount()
    if int(status):
        report.failed("driver", cuda.explain("cudaGetDeviceCount", status))
        return 0
    if not count:
        report.warning("driver", f"CUDA {_dotted(version)}, and it shows no GPU", "see nvidia-smi")
        return 0
    report.ok("driver", f"CUDA {_dotted(version)}, {count} GPU{'s' * (count > 1)}")
    return int(count)


def _gpu(report: Report, index: int) -> None:
    device = trt_package.device(index)
    if device is None:
        report.failed(f"GPU {index}", "CUDA counts it, and does not open it", "see nvidia-smi")
        return
    parts = [f"{device.name}, compute capability {device.capability}"]
    with cuda.on_device(index):
        free, total = cuda.call("cudaMemGetInfo")
    parts.append(f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    if "MIG" in device.name:
        parts.append("a MIG slice")
    report.ok(f"GPU {index}", ", ".join(parts))


def _variables(report: Report) -> None:
    given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    if os.environ.get("NVIDIA_TF32_OVERRIDE", "0") != "0":
        report.warning(
            "variables",
            f"{', '.join(given)}: TF32 rounds float32 to 10 bits, which changes codes",
            "unset NVIDIA_TF32_OVERRIDE",
        )
    else:
        report.ok("variables", ", ".join(given) or f"none of {', '.join(_VARIABLES)} is set")


def _version_without_bindings() -> int | None:
    """The driver's version of CUDA, asked of its library itself; None without a driver."""
    import ctypes

    try:
        library: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def _value(answer: tuple[Any, ...]) -> Any:
    status, value = answer
    return 0 if int(status) else value


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
