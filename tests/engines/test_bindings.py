"""Every name and argument that the engines take from CUDA and TensorRT exists in the real bindings.

The uses are read out of the code. `RECEIVERS` says of which class an expression is; a use of a
TensorRT name on an expression that it does not know fails, so that none is left unchecked.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bindings
import pytest
import tensorrt_doubles
from bindings import CUDA, RTX, STANDARD

import vqtrt

PACKAGE = Path(vqtrt.__file__).parent
FILES = sorted(
    [*(PACKAGE / "engines").rglob("*.py"), *(PACKAGE / "export" / "tensorrt").glob("*.py")]
)

RECEIVERS: dict[str, dict[str, tuple[str, ...]]] = {
    "engines/tensorrt/context.py": {
        "self._runtime": ("Runtime",),
        "self._engine": ("ICudaEngine",),
        "self._context": ("IExecutionContext",),
        "config": ("IRuntimeConfig",),
        "graph": ("CudaGraphStrategy",),
        "kernels": ("DynamicShapesKernelSpecializationStrategy",),
    },
    "engines/tensorrt/runtime_cache.py": {
        "self._cache": ("IRuntimeCache",),
        "config": ("IRuntimeConfig",),
    },
    "export/tensorrt/build.py": {
        "builder": ("Builder",),
        "config": ("IBuilderConfig",),
        "network": ("INetworkDefinition",),
        "parser": ("OnnxParser",),
        "made": ("IOptimizationProfile",),
        "cache": ("ITimingCache",),
        "tensor": ("ITensor",),
    },
    "export/tensorrt/report.py": {
        "engine": ("ICudaEngine",),
        "package.module.Runtime(package.logger)": ("Runtime",),
        "engine.create_engine_inspector()": ("EngineInspector",),
        "network": ("INetworkDefinition",),
        "parsed": ("ILayer",),
    },
}
MODULES = ("module", "package.module", "self.module")
"""Expressions that are the package itself."""
ONLY_RTX = {
    ("CudaGraphStrategy", ""),
    ("CudaGraphStrategy", "DISABLED"),
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
    ("DynamicShapesKernelSpecializationStrategy", ""),
    ("DynamicShapesKernelSpecializationStrategy", "EAGER"),
    ("DynamicShapesKernelSpecializationStrategy", "NONE"),
    ("ComputeCapability", ""),
    ("ComputeCapability", "__members__"),
    ("BuilderFlag", "REQUIRE_USER_ALLOCATION"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("IExecutionContext", "is_stream_capturable"),
    ("IRuntimeCache", "deserialize"),
    ("IRuntimeCache", "serialize"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "cuda_graph_strategy"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
    ("IRuntimeConfig", "set_runtime_cache"),
}
"""What only TensorRT for RTX has: the code uses it behind `is_rtx` or `has_runtime_cache`."""


@dataclass(frozen=True)
class Use:
    """A member of a class of TensorRT, as the code uses it."""

    place: str
    cls: str
    member: str
    """Empty for the class itself; `__init__` if it is called."""
    call: tuple[int, tuple[str, ...]] | None
    """Positional arguments and names of the others; None if it is no call, or unpacks a list."""


def chains(tree: ast.AST) -> Iterator[tuple[ast.Attribute, ast.Call | None]]:
    """The attributes of a file, each with the call that it is the function of.

    `getattr(owner, "name", default)` counts as `owner.name`.
    """
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node, called.get(id(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            owner, name = node.args[:2]
            if isinstance(name, ast.Constant):
                attribute = ast.Attribute(owner, str(name.value), ast.Load())
                yield ast.copy_location(attribute, node), None


def uses() -> Iterator[Use]:
    """What the code uses of TensorRT."""
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        receivers = RECEIVERS.get(name, {})
        for node, call in chains(ast.parse(path.read_text())):
            owner, place = ast.unparse(node.value), f"{name}:{node.lineno}"
            shape = None
            if call is not None and not any(isinstance(each, ast.Starred) for each in call.args):
                unbound = node.attr == "__init__"  # `Class.__init__(self)`: self is no parameter
                keywords = tuple(each.arg for each in call.keywords if each.arg)
                shape = (len(call.args) - unbound, keywords)
            head, _, middle = owner.rpartition(".")
            if owner in MODULES and not node.attr.startswith("__"):
                yield Use(place, node.attr, "__init__" if call else "", shape)
            elif head in MODULES:
                yield Use(place, middle, node.attr, shape)
            elif owner in receivers:
                for cls in receivers[owner]:
                    yield Use(place, cls, node.attr, shape)


USES = sorted(set(uses()), key=str)


def test_the_uses_are_found() -> None:
    """The reader of the code sees what it should: a few uses of each kind."""
    found = {(use.cls, use.member) for use in USES}
    assert len(USES) > 60
    assert {
        ("IExecutionContext", "execute_async_v3"),
        ("BuilderFlag", "TF32"),
        ("Runtime", "deserialize_cuda_engine"),
        ("Builder", "__init__"),
        ("ILogger", "Severity"),
    } <= found


def test_a_wrong_call_is_refused() -> None:
    """By the docstrings of the real class: a name, too many arguments, an unknown keyword."""
    api = bindings.tensorrt(RTX)
    assert api.lacks("IExecutionContext", "execute_async_v4")
    (enqueue,) = api.overloads("IExecutionContext", "execute_async_v3")
    assert enqueue.takes(1)
    assert enqueue.takes(0, ("stream_handle",))
    assert not enqueue.takes(0)
    assert not enqueue.takes(2)
    assert not enqueue.takes(1, ("stream",))


@pytest.mark.parametrize("version", [RTX, *STANDARD])
def test_tensorrt_has_what_the_engines_use(version: str) -> None:
    api = bindings.tensorrt(version)
    lacking, refused = [], []
    for use in USES:
        if version != RTX and (use.cls, use.member) in ONLY_RTX:
            continue
        nested = f"{use.cls}.{use.member}" in api.classes
        if not nested and api.lacks(use.cls, use.member):
            lacking.append(f"{use.place}: {use.cls}.{use.member}")
        elif use.call is not None:
            overloads = api.overloads(use.cls, use.member)
            if overloads and not any(each.takes(*use.call) for each in overloads):
                refused.append(f"{use.place}: {use.cls}.{use.member}{use.call} of {overloads}")
    assert not lacking
    assert not refused


def test_what_only_rtx_has_is_used_and_true() -> None:
    """The list of exceptions hides nothing: each is used, is in RTX, and in no standard version."""
    used = {(use.cls, use.member) for use in USES}
    assert used >= ONLY_RTX
    for version in STANDARD:
        api = bindings.tensorrt(version)
        assert not [each for each in ONLY_RTX if not api.lacks(*each)]


def test_no_use_of_tensorrt_is_on_an_unknown_expression() -> None:
    """A TensorRT name on something that `RECEIVERS` lacks would not be checked above."""
    api = bindings.tensorrt(RTX)
    members = {each for members in api.classes.values() for each in members}
    telling = {each for each in members if "_" in each.strip("_") and not each.startswith("_")}
    own = {
        node.name if isinstance(node, ast.FunctionDef) else node.attr
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    }
    unknown = []
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        receivers = RECEIVERS.get(name, {})
        for node, _ in chains(ast.parse(path.read_text())):
            owner = ast.unparse(node.value)
            known = owner in receivers or owner.startswith(MODULES)
            if node.attr in telling - own and not known:
                unknown.append(f"{name}:{node.lineno}: {owner}.{node.attr}")
    assert not unknown


CUDA_NAME = re.compile(r"cu(?:da)?[A-Z]\w+|CU\w+")


def cuda_uses() -> dict[str, set[int | None]]:
    """The names of CUDA that the engines use; with how many arguments, None if it is no call."""
    found: dict[str, set[int | None]] = {}
    for path in sorted((PACKAGE / "engines").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and CUDA_NAME.fullmatch(node.attr):
                found.setdefault(node.attr, set()).add(None)
            if not isinstance(node, ast.Call):
                continue
            function, first = node.func, node.args[0] if node.args else None
            if isinstance(function, ast.Attribute) and CUDA_NAME.fullmatch(function.attr):
                found.setdefault(function.attr, set()).add(len(node.args))
            elif ast.unparse(function) == "call" and isinstance(first, ast.Constant):
                found.setdefault(str(first.value), set()).add(len(node.args) - 1)
            elif ast.unparse(function) == "_owned":
                free = node.args[1]
                assert isinstance(free, ast.Constant)
                found.setdefault(str(free.value), set()).add(1)
    return found


@pytest.mark.parametrize("version", CUDA)
def test_cuda_has_what_the_engines_use(version: str) -> None:
    api, used = bindings.cuda(version), cuda_uses()
    assert len(used) > 25
    assert {"cudaGraphInstantiate", "cudaMemcpyHostToDevice", "cuDeviceGet"} <= set(used)
    values = {str(name) for entry in api.values() for name in entry.get("members", ())}  # type: ignore[attr-defined]
    for name, counts in used.items():
        assert name in api or name in values, name
        for count in counts - {None}:
            assert api[name]["parameters"] == count, name


@pytest.mark.parametrize("double", tensorrt_doubles.REAL, ids=lambda double: double.__name__)
def test_a_double_has_no_method_that_the_real_class_lacks(double: type) -> None:
    real = tensorrt_doubles.REAL[double]
    for name, member in vars(double).items():
        if name.startswith("_") or not inspect.isfunction(member):
            continue
        parameters = tuple(inspect.signature(member).parameters.values())[1:]
        names = tuple(each.name for each in parameters)
        if real == "cuda.bindings":
            if name.startswith("cu"):
                assert bindings.cuda("installed")[name]["parameters"] == len(names), name
            continue
        api = bindings.tensorrt(RTX)
        assert not api.lacks(real, name), f"{real}.{name}"
        overloads = api.overloads(real, name)
        # A method with two overloads is one function of the double, with all of their parameters.
        known = {parameter for each in overloads for parameter in each.names}
        counts = [len(each.names) for each in overloads]
        named = {each.name for each in parameters if each.kind != each.POSITIONAL_ONLY}
        assert named <= known, f"{real}.{name}: {overloads}"
        assert len(names) in counts or len(names) == sum(counts), f"{real}.{name}: {overloads}"
