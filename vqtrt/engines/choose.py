"""Which engine is meant, and the fastest that works here for `auto`."""

import importlib.util
from contextlib import suppress

from vqtrt.artefacts import Artefacts
from vqtrt.bundle import Bundle
from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError

_TENSORRT = ("tensorrt", "tensorrt-rtx")
_CUDA = ("onnxruntime-tensorrt", "onnxruntime-cuda")
ENGINES = ("auto", *_TENSORRT, *_CUDA, "onnxruntime", "torch")
_INSTALL = {
    "onnxruntime-tensorrt": 'pip install "vqtrt[gpu]"',
    "onnxruntime-cuda": 'pip install "vqtrt[gpu]"',
    "onnxruntime": 'pip install "vqtrt[cpu]"',
    "torch": 'pip install "vqtrt[train]"',
}


def open_engine(
    model: Artefacts, name: str = "auto", *, threads: int | None = None, precision: str = "fp32"
) -> Engine:
    """Open a model on the engine `name`; `threads` bounds the cores that it uses (all by default).

    `precision` is that of the bundle's graphs (`vqtrt.precision`); torch runs fp32 only. `auto`
    takes the first that works here: TensorRT for which the bundle has engines, onnxruntime on a
    GPU, onnxruntime on the CPU, torch.
    """
    if name not in ENGINES:
        raise VqtrtError(f"no engine {name!r}: choose one of {', '.join(ENGINES)}")
    if name == "auto":
        return _fastest(model, threads, precision)
    if name in _TENSORRT:
        from vqtrt.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(model.open_bundle(), name, precision)
    if not installed(name.partition("-")[0]):
        raise VqtrtError(f"the engine {name} is not installed: {_INSTALL[name]}")
    if name in _CUDA:
        from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine

        tensorrt = name == "onnxruntime-tensorrt"
        return OnnxRuntimeCudaEngine(model.open_bundle(), precision=precision, tensorrt=tensorrt)
    if name == "onnxruntime":
        from vqtrt.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model.open_bundle(), threads=threads, precision=precision)
    if precision != "fp32":
        raise VqtrtError(
            f"the engine torch runs fp32 only: for {precision}, type "
            f"`vqtrt export {model.path} --precision {precision}` and pass --engine onnxruntime"
        )
    if model.run is None:
        raise VqtrtError(
            f"the engine torch needs the run, and {model.path} is a bundle alone: "
            "pass --model RUN, or --engine onnxruntime"
        )
    from vqtrt.engines.torch import TorchEngine

    return TorchEngine(model.run, threads=threads)


def _fastest(model: Artefacts, threads: int | None, precision: str) -> Engine:
    if model.bundle is not None:
        bundle = model.open_bundle()
        for package in _TENSORRT:
            engine = _built(bundle, package, precision)
            if engine is not None:
                return engine
        if installed("onnxruntime"):
            with suppress(VqtrtError):  # no GPU, or an onnxruntime for the CPU
                return open_engine(model, "onnxruntime-cuda", precision=precision)
            return open_engine(model, "onnxruntime", threads=threads, precision=precision)
    if model.run is not None and installed("torch"):
        return open_engine(model, "torch", threads=threads, precision=precision)
    if model.bundle is not None:
        raise VqtrtError(f"no engine is installed that runs a bundle: {_INSTALL['onnxruntime']}")
    raise VqtrtError(
        f"{model.path} has no bundle, and torch is not installed to run it without one: export it "
        f"where torch is (`vqtrt export {model.path}`), or {_INSTALL['torch']}"
    )


def _built(bundle: Bundle, package: str, precision: str) -> Engine | None:
    """TensorRT, where it works here and the bundle has engines of it for all but priors."""
    from vqtrt.engines.plans import FOLDER

    if not (bundle.path / FOLDER).is_dir():
        return None
    from vqtrt.engines.tensorrt import TensorRTEngine

    with suppress(VqtrtError):
        engine = TensorRTEngine(bundle, package, precision)
        for graph in ("encoder", "decoder", "conditioning", "step"):
            if graph in bundle.info.graphs:
                engine.most(graph, {})
        return engine
    return None


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
