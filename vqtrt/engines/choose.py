"""Which engine is meant, and the fastest that works here for `auto`."""

import importlib.util

from vqtrt.artefacts import Artefacts
from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError

ENGINES = ("auto", "onnxruntime", "torch")
_INSTALL = {
    "onnxruntime": 'pip install "vqtrt[cpu]"',
    "torch": 'pip install "vqtrt[train]"',
}


def open_engine(model: Artefacts, name: str = "auto", *, threads: int | None = None) -> Engine:
    """Open a model on the engine `name`; `threads` bounds the cores that it uses (all by default).

    `auto` takes onnxruntime where it is installed and the model has a bundle, else torch.
    """
    if name not in ENGINES:
        raise VqtrtError(f"no engine {name!r}: choose one of {', '.join(ENGINES)}")
    if name == "auto":
        name = _fastest(model)
    if not installed(name):
        raise VqtrtError(f"the engine {name} is not installed: {_INSTALL[name]}")
    if name == "onnxruntime":
        from vqtrt.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model.open_bundle(), threads=threads)
    if model.run is None:
        raise VqtrtError(
            f"the engine torch needs the run, and {model.path} is a bundle alone: "
            "pass --model RUN, or --engine onnxruntime"
        )
    from vqtrt.engines.torch import TorchEngine

    return TorchEngine(model.run, threads=threads)


def _fastest(model: Artefacts) -> str:
    if model.bundle is not None and installed("onnxruntime"):
        return "onnxruntime"
    if model.run is not None and installed("torch"):
        return "torch"
    if model.bundle is not None:
        raise VqtrtError(f"no engine is installed that runs a bundle: {_INSTALL['onnxruntime']}")
    raise VqtrtError(
        f"{model.path} has no bundle, and torch is not installed to run it without one: export it "
        f"where torch is (`vqtrt export {model.path}`), or {_INSTALL['torch']}"
    )


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
