"""One hash of all that an exported graph depends on, so that an export copies unchanged graphs."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from vqtrt.export.tensor_hash import update_with
from vqtrt.formats.bundle import TensorSpec
from vqtrt.models.deployed import DeployedGraph
from vqtrt.version import __version__

_PACKAGE = Path(__file__).parents[1]
_EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
_OWN = frozenset(nn.Module().__dict__)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def fingerprint(graph: DeployedGraph, example: Mapping[str, int]) -> str | None:
    """SHA-256, as hexadecimal digits, of a graph's weights, settings, tables, example and code.

    The code is that of vqtrt, whole, and the versions of the packages that export. None where a
    module holds what cannot be told here, or is not vqtrt's or torch's, and where code or versions
    cannot be read: such a graph has to be exported anew.
    """
    module = graph.module
    if _CODE is None:
        return None
    try:
        parts = {name: _facts(part) for name, part in module.named_modules(remove_duplicate=False)}
    except TypeError:
        return None
    info = {
        "code": _CODE,
        "parts": parts,
        "tables": [_tables(graph.inputs), _tables(graph.outputs), _tables(graph.caches)],
        "example": dict(example),
    }
    digest = hashlib.sha256(json.dumps(info, sort_keys=True).encode())
    tensors = itertools.chain(
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),  # also those that are in no file
    )
    update_with(digest, tensors)
    return digest.hexdigest()


def _code() -> list[str] | None:
    """Versions, and a hash of the package's sources: what is edited in place also has one.

    None where they cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(_PACKAGE.rglob("*.py")):
            if path.is_file():  # not an editor's lock
                digest.update(f"{path.relative_to(_PACKAGE)}\n".encode())
                digest.update(path.read_bytes())
        return [__version__, digest.hexdigest(), *(version(name) for name in _EXPORTERS)]
    except (OSError, PackageNotFoundError):
        return None


# Read when the code is imported: what is edited later is not what runs.
_CODE = _code()


def _facts(module: nn.Module) -> list[Any]:
    """A module's class and its settings; `TypeError` where they cannot be told."""
    kind = type(module)
    if kind.__module__.partition(".")[0] not in ("vqtrt", "torch"):
        raise TypeError(kind)
    if any(vars(module)[name] for name in _HOOKS):
        raise TypeError("hooks can do anything")
    settings = {key: _plain(value) for key, value in vars(module).items() if key not in _OWN}
    return [kind.__module__, kind.__qualname__, settings]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, torch.dtype):
        return str(value)
    raise TypeError(type(value))


def _tables(tensors: tuple[TensorSpec, ...]) -> list[Any]:
    return [tensor.model_dump(mode="json") for tensor in tensors]
