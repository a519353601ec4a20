"""The packages `tensorrt` and `tensorrt-rtx`: one API, and here all in which they differ.

| | tensorrt | tensorrt-rtx |
|---|---|---|
| versions | 10.13 to 11.4 | 1.7 |
| compiles | on the GPU that it is for | anywhere; the rest is compiled where the plan runs |
| a plan runs on | GPUs of the same name | all that it was compiled for |
| keeps between processes | a timing cache, when it builds | a runtime cache, when it runs |
| strongly typed | 10: by a flag; 11: always | always |
"""

import importlib
import importlib.util
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Literal, get_args

from vqtrt.errors import VqtrtError

PackageName = Literal["tensorrt", "tensorrt-rtx"]
NAMES: tuple[PackageName, ...] = get_args(PackageName)
_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL = {"tensorrt": 'pip install "vqtrt[gpu]"', "tensorrt-rtx": 'pip install "vqtrt[rtx]"'}
_VERSIONS = {"tensorrt": ((10, 13), (11, 4)), "tensorrt-rtx": ((1, 7), (1, 7))}
"""First and last that are supported, both included."""
VARIABLE = "VQTRT_TRT_LOG"
_SEVERITIES = ("error", "warning", "info", "verbose")
"""What the variable may say: of messages this severe and more so, each is shown as it comes."""
REFUSED = (TypeError, RuntimeError)
"""What the packages' constructors and shape inference raise where they cannot."""


@dataclass(frozen=True)
class Package:
    """One of the two packages, imported."""

    name: PackageName
    module: Any
    version: str
    """As the package says it, such as `1.7.1.116`; a plan is for exactly one."""

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.name == "tensorrt-rtx"

    @property
    def has_timing_cache(self) -> bool:
        """Whether the builder gains from an `ITimingCache`; in RTX its calls do nothing."""
        return not self.is_rtx

    @property
    def has_runtime_cache(self) -> bool:
        """Whether kernels are compiled where the plan runs, and can be kept."""
        return self.is_rtx

    def network_flags(self) -> int:
        """What `create_network` needs for a strongly typed network."""
        if self.is_rtx or _release(self.version) >= (11, 0):
            return 0
        return 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def compute_capability(self, text: str) -> Any:
        """The `ComputeCapability` that is written `8.9`; for RTX alone."""
        if not self.is_rtx:
            raise VqtrtError(
                f"{self.name} compiles for the GPU that is here: leave out --compute-capability, "
                "or take --target tensorrt-rtx"
            )
        known = self._capabilities()
        if text not in known:
            raise VqtrtError(
                f"{self.name} {self.version} knows no compute capability {text!r}: choose among "
                f"{', '.join(known)}, or leave it out for an engine that is portable"
            )
        return known[text]

    def check_device(self, device: "Device | None") -> None:
        """Raise `VqtrtError` if no engine of the package can run on a GPU."""
        if not self.is_rtx or device is None:
            return
        known = self._capabilities()
        if device.capability not in known:
            raise VqtrtError(
                f"{self.name} {self.version} does not support {device.name}: its compute "
                f"capability is {device.capability}, and engines run on {', '.join(known)}. Use "
                'TensorRT (pip install "vqtrt[gpu]", vqtrt export --target tensorrt), or pass '
                "--engine onnxruntime-cuda"
            )

    def _capabilities(self) -> dict[str, Any]:
        """The compute capabilities that RTX knows, by their numbers, such as `8.9`."""
        return {
            f"{name[2:-1]}.{name[-1]}": value
            for name, value in self.module.ComputeCapability.__members__.items()
            if name.startswith("SM")
        }

    @property
    def logger(self) -> Any:
        """The one `ILogger` of the process: a second one would be ignored by the package."""
        return _logger(self.module)

    @contextmanager
    def logging(self) -> Iterator[list[str]]:
        """The lines that the package logs while the block runs, without its verbose ones."""
        lines: list[str] = []
        self.logger.listeners.append(lines)
        try:
            yield lines
        finally:
            listeners = self.logger.listeners
            listeners[:] = [each for each in listeners if each is not lines]

    def log_mark(self) -> int:
        """Where the log is now; see `reason`."""
        return int(self.logger.number)

    def reason(self, mark: int) -> str:
        """The first error that was logged since `log_mark`, in one line; empty without one."""
        lines = [line for number, line in tuple(self.logger.recent) if number > mark]
        return telling(errors(lines), 1)[:400]


def errors(log: Sequence[str]) -> list[str]:
    """The lines of a log that are errors."""
    return [line for line in log if "ERROR" in line.partition(":")[0]]


def telling(messages: Sequence[str], most: int = 8) -> str:
    """The first messages in one line, less what they say of CUDA failing: that only follows."""
    parts = [[x for x in message.splitlines() if "catchCudaError" not in x] for message in messages]
    parts = [part for part in parts if part] or [message.splitlines() for message in messages]
    return " ".join(" ".join(line for part in parts[:most] for line in part[:8]).split())


@dataclass(frozen=True)
class Device:
    """A GPU."""

    name: str
    capability: str
    """Such as `8.9`."""


def load(name: str) -> Package:
    """Import a package; says what to install where it is missing or of another version."""
    if name not in NAMES:
        raise VqtrtError(f"no package {name!r}: choose one of {', '.join(NAMES)}")
    if not installed(name):
        raise VqtrtError(f"{name} is not installed: {_INSTALL[name]}")
    _shown()
    try:
        module = importlib.import_module(_MODULES[name])
    except (ImportError, OSError, RuntimeError) as error:
        # Wheels whose libraries are missing or do not load raise one or another of these.
        reason = " ".join(str(error).split())
        raise VqtrtError(
            f"{name} is installed but cannot be loaded ({reason}); install it anew: "
            f"{_INSTALL[name]}"
        ) from error
    version = str(getattr(module, "__version__", "unknown"))
    first, last = _VERSIONS[name]
    if not first <= _release(version) <= last:
        span = " to ".join(dict.fromkeys(".".join(map(str, end)) for end in (first, last)))
        raise VqtrtError(
            f"{name} {version} is not supported, only {span}: {_INSTALL[name]} brings one that is"
        )
    return Package(name, module, version)


def installed(name: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(_MODULES[name]) is not None


def device(index: int = 0) -> Device | None:
    """A GPU, by CUDA's number; None if there is no such GPU, no driver or no cuda-python."""
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    try:
        if driver.cuInit(0)[0]:
            return None
        error, gpu = driver.cuDeviceGet(index)
    except RuntimeError:  # of its loader: no driver library
        return None
    if error:
        return None
    name = driver.cuDeviceGetName(128, gpu)[1].split(b"\0")[0].decode()
    kind = driver.CUdevice_attribute
    major, minor = (
        driver.cuDeviceGetAttribute(attribute, gpu)[1]
        for attribute in (
            kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return Device(name, f"{major}.{minor}")


def _release(version: str) -> tuple[int, int]:
    """Major and minor number; (0, 0) where there are none."""
    parts = version.split(".")[:2]
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        return 0, 0
    return int(parts[0]), int(parts[1])


def _shown() -> tuple[str, ...]:
    """The severities that are shown on standard error, as `$VQTRT_TRT_LOG` says."""
    least = os.environ.get(VARIABLE, "").lower()
    if not least:
        return ()
    if least not in _SEVERITIES:
        raise VqtrtError(f"{VARIABLE} is {least!r}: set it to one of {', '.join(_SEVERITIES)}")
    shown = _SEVERITIES[: _SEVERITIES.index(least) + 1]
    return ("INTERNAL_ERROR", *(name.upper() for name in shown))


@cache
def _logger(module: Any) -> Any:
    class Logger(module.ILogger):  # type: ignore[misc]
        """Keeps lines; the package would print them.

        The package calls it from the thread that called the package, or, while it compiles, from
        others. None of these runs on by itself: `trt_context` never asks for kernels that are
        compiled in the background, whose messages could meet an interpreter that is ending.
        """

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.recent: deque[tuple[int, str]] = deque(maxlen=100)
            self.listeners: list[list[str]] = []
            self.number = 0
            self._numbers, self._shown = count(1), _shown()

        def log(self, severity: Any, message: str) -> None:
            line = f"{severity.name}: {message}"
            if severity.name in self._shown:
                print(f"{module.__name__}: {line}", file=sys.stderr, flush=True)
            if severity != module.ILogger.Severity.VERBOSE:
                self.number = next(self._numbers)
                self.recent.append((self.number, line))
                for lines in self.listeners:
                    lines.append(line)

    return Logger()
