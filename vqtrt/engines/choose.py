"""Open a model on the engine that is asked for, or on the fastest that works here for `auto`."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from vqtrt.config.location import ModelLocation
from vqtrt.engines.base import Engine
from vqtrt.engines.options import AUTO, ENGINES, TENSORRT, EngineOptions
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.engines.tensorrt.engine import TensorRTEngine

_INSTALL = {
    "onnxruntime-cuda": 'pip install "vqtrt[gpu]"',
    "onnxruntime": 'pip install "vqtrt[cpu]"',
    "torch": 'pip install "vqtrt[train]"',
}


def _ignore(text: str) -> None:
    """What `note` does by default: nothing."""


def open_engine(
    model: ModelLocation, options: EngineOptions = AUTO, *, note: Callable[[str], None] = _ignore
) -> Engine:
    """Open a model on the engine that `options` name.

    `auto` takes the first that works here: TensorRT if the bundle has engines that load on this
    GPU and were built on this machine (or `options.trust_engines`), ONNX Runtime on a GPU, ONNX
    Runtime on the CPU, torch. `note` is called with the reason for each kind of TensorRT engine
    that the bundle holds and that `auto` cannot use. Raises `VqtrtError` if the engine is not
    installed, does not work here, or lacks what it needs of the model.
    """
    name = options.engine
    if name not in ENGINES:
        raise VqtrtError(f"no engine {name!r}: choose one of {', '.join(ENGINES)}")
    if name == "auto":
        return _fastest(model, options, note)
    if name not in TENSORRT and not installed(name.partition("-")[0]):
        raise VqtrtError(f"the engine {name} is not installed: {_INSTALL[name]}")
    return _OPEN[name](model, options)


def _torch(model: ModelLocation, options: EngineOptions) -> Engine:
    precision = options.precision
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

    return TorchEngine(model.run, options)


def _onnxruntime(model: ModelLocation, options: EngineOptions) -> Engine:
    from vqtrt.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model.open_bundle(), options)


def _onnxruntime_cuda(model: ModelLocation, options: EngineOptions) -> Engine:
    from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine

    return OnnxRuntimeCudaEngine(model.open_bundle(), options)


def _tensorrt(model: ModelLocation, options: EngineOptions) -> "TensorRTEngine":
    from vqtrt.engines.tensorrt.engine import TensorRTEngine

    return TensorRTEngine(model.open_bundle(), options)


_OPEN: dict[str, Callable[[ModelLocation, EngineOptions], Engine]] = {
    **dict.fromkeys(TENSORRT, _tensorrt),
    "onnxruntime-cuda": _onnxruntime_cuda,
    "onnxruntime": _onnxruntime,
    "torch": _torch,
}


def _fastest(model: ModelLocation, options: EngineOptions, note: Callable[[str], None]) -> Engine:
    if model.bundle is not None:
        for package in TENSORRT:
            engine = _loaded(model, replace(options, engine=package), note)
            if engine is not None:
                return engine
        if installed("onnxruntime"):
            try:
                return open_engine(model, replace(options, engine="onnxruntime-cuda"))
            except VqtrtError:  # no GPU, or an onnxruntime for the CPU
                return open_engine(model, replace(options, engine="onnxruntime"))
    if model.run is not None and installed("torch"):
        return open_engine(model, replace(options, engine="torch"))
    if model.bundle is not None:
        raise VqtrtError(f"no engine is installed that runs a bundle: {_INSTALL['onnxruntime']}")
    raise VqtrtError(
        f"{model.path} has no bundle, and torch is not installed to run it without one: export it "
        f"where torch is (`vqtrt export {model.path}`), or {_INSTALL['torch']}"
    )


def _loaded(
    model: ModelLocation, options: EngineOptions, note: Callable[[str], None]
) -> Engine | None:
    """TensorRT with the plans of all graphs but priors', if they load here.

    They are loaded now: one that is found can still be refused by the GPU, and by then it would be
    too late to take another engine.
    """
    from vqtrt.engines.tensorrt.plans import has_plans

    bundle = model.open_bundle()
    if not has_plans(bundle, options.engine, options.precision):
        return None
    try:
        engine = _tensorrt(model, options)
        for graph in ("encoder", "decoder", "conditioning", "step"):
            if graph in bundle.info.graphs:
                engine.plan(graph, {})
    except VqtrtError as error:
        note(f"not on {options.engine}: {error}")
        return None
    return engine


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
