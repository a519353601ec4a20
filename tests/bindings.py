"""What the real Python bindings of CUDA and TensorRT offer, read on a machine without a GPU.

`make install` puts the bindings of several versions under `sys.prefix/bindings`: only the Python
half of the standard TensorRT, whose libraries a stub of nine functions stands for. Each version is
imported in a process of its own and described as JSON: every class with its members, and for a
method the first lines of its docstring, in which pybind11 gives the signatures.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BINDINGS = Path(sys.prefix) / "bindings"
STANDARD = ("10.13.2.6", "10.16.1.11", "11.4.0.106")
RTX = "tensorrt-rtx"
CUDA = ("installed", "12.9.7")

_STUBBED = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")

_DESCRIBE_TENSORRT = """
import json, sys, types
sys.modules["tensorrt_libs"] = types.ModuleType("tensorrt_libs")
module = __import__(sys.argv[1])
def members(cls):
    found = {}
    for name in dir(cls):
        member = getattr(cls, name)
        found[name] = (member.__doc__ or "") if callable(member) else None
    return found
classes = {}
def collect(prefix, holder):
    for name, cls in vars(holder).items():
        if isinstance(cls, type) and not name.startswith("__") and prefix + name not in classes:
            classes[prefix + name] = members(cls)
            collect(prefix + name + ".", cls)
collect("", module)
print(json.dumps({"version": module.__version__, "classes": classes}))
"""
_DESCRIBE_CUDA = """
import enum, inspect, json
from cuda.bindings import driver, runtime
found = {}
for module in (driver, runtime):
    for name, member in vars(module).items():
        if not name.startswith("cu") and not name.startswith("CU"):
            continue
        if isinstance(member, type):
            members = [each for each in dir(member) if each.startswith(("cu", "CU"))]
            found[name] = {"members": members}
        elif callable(member):
            found[name] = {"parameters": len(inspect.signature(member).parameters)}
        else:
            found[name] = {}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Signature:
    """One overload of a method: the names of its parameters, `self` left out."""

    names: tuple[str, ...]
    optional: int
    """How many of them, the last ones, have defaults."""

    def takes(self, positional: int, keywords: tuple[str, ...] = ()) -> bool:
        """Whether a call with so many positional arguments and these keywords fits."""
        by_name = self.names[positional:]
        missing = set(self.names[: len(self.names) - self.optional]) - set(self.names[:positional])
        return (
            positional <= len(self.names)
            and set(keywords) <= set(by_name)
            and missing <= set(keywords)
        )


def signatures(doc: str) -> list[Signature]:
    """The overloads that a pybind11 docstring names; none if it names none."""
    found = []
    for match in re.finditer(r"^(?:\d+\. )?\w+\((.*)\)(?: -> .*)?$", doc, re.MULTILINE):
        parts = _split(match[1])
        names = [re.match(r"\*{0,2}\w*", part)[0] for part in parts]  # type: ignore[index]
        optional = sum("=" in part for part in parts)
        if "*args" in names:  # of a method with overloads, which follow
            continue
        if names[:1] == ["self"]:
            names = names[1:]
        found.append(Signature(tuple(names), optional))
    return found


def _split(text: str) -> list[str]:
    """A parameter list at its top-level commas."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char in "([{<") - (char in ")]}>")
        if char == "," and not depth:
            parts.append(text[start:index].strip())
            start = index + 1
    rest = text[start:].strip()
    return [*parts, rest] if rest else parts


@dataclass(frozen=True)
class TensorRTApi:
    """One version of `tensorrt` or `tensorrt_rtx`."""

    version: str
    classes: dict[str, dict[str, str | None]]
    """By name (`ILogger.Severity` if nested), its members: a method's docstring, else None."""

    def lacks(self, cls: str, member: str) -> bool:
        """Whether a class, or a member of it, does not exist."""
        return cls not in self.classes or (bool(member) and member not in self.classes[cls])

    def overloads(self, cls: str, member: str) -> list[Signature]:
        """The signatures of a method; none of a property or an enum's value."""
        return signatures(self.classes[cls][member] or "")


@functools.cache
def tensorrt(version: str) -> TensorRTApi:
    """The API of a version of `STANDARD`, or of the installed `tensorrt-rtx`."""
    environment = os.environ.copy()
    name = "tensorrt_rtx"
    if version != RTX:
        name, folder = "tensorrt_bindings", _folder(f"tensorrt-{version}")
        environment["PYTHONPATH"] = str(folder)
        environment["LD_LIBRARY_PATH"] = str(_stubs(version.partition(".")[0]))
    content = json.loads(_python(_DESCRIBE_TENSORRT, name, environment=environment))
    return TensorRTApi(content["version"], content["classes"])


@functools.cache
def cuda(version: str) -> dict[str, dict[str, object]]:
    """What `cuda.bindings` offers: by name `parameters` of a function, `members` of an enum."""
    environment = os.environ.copy()
    if version != "installed":
        environment["PYTHONPATH"] = str(_folder(f"cuda-{version}"))
    found: dict[str, dict[str, object]] = json.loads(
        _python(_DESCRIBE_CUDA, environment=environment)
    )
    return found


def _folder(name: str) -> Path:
    folder = BINDINGS / name
    assert folder.is_dir(), f"{folder} is missing: type `make bindings`"
    return folder


def _python(code: str, *args: str, environment: dict[str, str]) -> str:
    run = [sys.executable, "-c", code, *args]
    return subprocess.run(
        run, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _stubs(major: str) -> Path:
    """Libraries with the names that bindings of a major version load, whose functions give null."""
    folder = BINDINGS / f"stubs-{major}"
    if not folder.is_dir():
        stage = Path(f"{folder}.{os.getpid()}")
        stage.mkdir(parents=True)
        source = stage / "stub.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _STUBBED))
        for library in _LIBRARIES:
            file = f"lib{library}.so.{major}"
            options = ["-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(stage / file)]
            subprocess.run(["gcc", *options, str(source)], check=True)
        try:
            stage.rename(folder)
        except OSError:  # another test process was first
            shutil.rmtree(stage)
    return folder
