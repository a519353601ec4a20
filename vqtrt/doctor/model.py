"""A model: its files, its TensorRT plans, and whether every engine here gives the same codes."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.config.location import ModelLocation, find_model
from vqtrt.doctor.report import Report
from vqtrt.engines import cuda
from vqtrt.engines.base import Engine
from vqtrt.engines.choose import installed, open_engine
from vqtrt.engines.cuda import on_device
from vqtrt.engines.options import AUTO, TENSORRT, EngineOptions
from vqtrt.engines.tensorrt.plans import read_infos
from vqtrt.engines.trial import fill, plain_graphs, run_trial, usual_sizes
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, BundleInfo

_BATCHES = (1, 7, 64)
_VALUES = 1 << 24
"""Of all pictures, or samples of all clips: fewer of them where they are large."""
_ROUNDED = 0.001
"""Share of codes whose two nearest entries rounding may exchange, for pictures of noise."""
_CLOSE = 1e-3
_LOOPS = ("step", "row")
"""Ends of the names of graphs that run again and again: of a WaveNet decoder, and of priors."""
_STEPS = 512
_PRIOR_STEPS = 64


def examine_model(report: Report, path: Path, gpus: int, device: int) -> None:
    """Add the lines of a run or bundle."""
    report.section = "model"
    opened = report.attempt("model", lambda: _open(report, path))
    if opened is None:
        return
    found, bundle = opened
    with report.checking("files"):
        for name in bundle.info.graphs:
            bundle.graph_bytes(name)
        report.ok("files", f"{len(bundle.info.graphs)} graphs have their hashes")
    options = replace(AUTO, device=device)
    with report.checking("auto"):
        notes: list[str] = []
        taken = open_engine(found, options, note=notes.append)
        report.ok("auto", "; ".join([f"takes {taken.name}", *notes]))
    graphs: dict[str, list[str]] = {}
    if installed("onnxruntime"):
        graphs["onnxruntime"] = list(plain_graphs(bundle.info))
        if gpus and "CUDAExecutionProvider" in _providers():
            graphs["onnxruntime-cuda"] = graphs["onnxruntime"]
    for name in TENSORRT:
        graphs[name] = _plans(report, found, bundle, replace(options, engine=name), gpus)
    reference: Engine | None = None
    for name, usable in graphs.items():
        if not usable:
            continue
        chosen = replace(options, engine=name)
        engine = report.attempt(name, partial(open_engine, found, chosen))
        if engine is None:
            continue
        reference = reference or engine
        if "encoder" in usable:
            with report.checking(name):
                report.ok(name, _codes(bundle.info, engine, reference))
        for graph in usable:
            if graph.rpartition("/")[2] in _LOOPS:
                with report.checking(f"{name} {graph}"):
                    report.ok(f"{name} {graph}", _loop(bundle.info, graph, engine, reference))


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _open(report: Report, path: Path) -> tuple[ModelLocation, Bundle]:
    found = find_model(path)
    bundle = found.open_bundle()
    report.hide(bundle.path, "BUNDLE")
    info = bundle.info
    report.ok(
        "model",
        f"{info.kind}, {info.model.codebook_size} codes, made by vqtrt {info.vqtrt_version}, "
        f"weights {info.source.weights_sha256[:12]}",
    )
    return found, bundle


def _plans(
    report: Report, found: ModelLocation, bundle: Bundle, options: EngineOptions, gpus: int
) -> list[str]:
    """Add lines on the plans of a package, if the bundle has any; the graphs whose plans load."""
    infos = [
        info
        for _, info in read_infos(bundle, f"`vqtrt export {bundle.path} --target {options.engine}`")
        if not isinstance(info, str) and info.package == options.engine
    ]
    if not infos:
        return []
    name, most = f"{options.engine} plans", max(info.activation_bytes or 0 for info in infos)
    told = f"{len(infos)}, whose largest takes {most / 2**20:.0f} MiB of the GPU's memory at most"
    if not gpus:
        report.ok(name, f"{told}; not loaded: no GPU is here")
        return []
    loaded: list[str] = []
    with report.checking(name):
        engine: Any = open_engine(found, options)
        for graph in plain_graphs(bundle.info):
            try:
                engine.largest_batch(graph, {})
            except VqtrtError as error:  # for another GPU or version, or of strangers
                report.warning(f"{options.engine} {graph}", str(error))
                continue
            with report.checking(f"{options.engine} {graph}"):
                engine.plan(graph, {})
                loaded.append(graph)
        with on_device(options.device):
            free, _ = cuda.call("cudaMemGetInfo")
        told += f", of {free / 2**20:.0f} MiB that are free"
        report.ok(name, f"{told}; {len(loaded)} of {len(plain_graphs(bundle.info))} graphs load")
    return loaded


def _codes(info: BundleInfo, engine: Engine, reference: Engine) -> str:
    """Codes of noise, in three batches, against the reference; an error for wrong ones."""
    items = _noise(info)
    encode = engine.open("encoder")
    start = time.perf_counter()
    codes = encode(items)
    seconds = time.perf_counter() - start
    parts = {}
    for size in _BATCHES:
        starts = range(0, len(items), size)
        parts[size] = np.concatenate([encode(items[at : at + size]) for at in starts])
    moved = max(float((part != codes).mean()) for part in parts.values())
    expected = codes if engine is reference else reference.open("encoder")(items)
    differ = float((codes != expected).mean())
    if max(moved, differ) > _ROUNDED:
        raise VqtrtError(
            f"{differ:.2%} of {codes.size} codes are not those of {reference.name}, and "
            f"{moved:.2%} change with the batch; verify it with `vqtrt verify --engine "
            f"{engine.name}`"
        )
    against = "" if engine is reference else f", {differ:.3%} not as {reference.name}'s"
    what = "pictures" if info.speech is None else "clips"
    return (
        f"{len(items)} {what} of noise in {seconds * 1e3:.0f} ms; of {codes.size} codes "
        f"{moved:.3%} change with the batch{against}"
    )


def _noise(info: BundleInfo) -> NDArray[Any]:
    """Pictures, or clips of about half a second."""
    rng = np.random.default_rng(0)
    if info.speech is not None:
        rate = info.speech.preprocessing.sample_rate
        samples = max(1, rate // 2 // info.model.stride) * info.model.stride
        count = max(8, min(64, _VALUES // samples))
        return (rng.standard_normal((count, samples)) * 0.1).clip(-1, 1).astype(np.float32)
    size = info.preprocessing
    assert size is not None  # noqa: S101 - a bundle of images has it
    count = max(8, min(64, _VALUES // (size.height * size.width * 3)))
    return rng.integers(0, 256, (count, size.height, size.width, 3), dtype=np.uint8)


def _loop(info: BundleInfo, graph: str, engine: Engine, reference: Engine) -> str:
    """A row of a prior, or some hundred steps: how fast, and whether as the reference's."""
    spec = info.graphs[graph]
    sizes = {"batch": 1} | usual_sizes(info, graph, spec)
    runs = {"step": _STEPS}.get(graph, 2 if graph.endswith("/row") else _PRIOR_STEPS)
    bound, rng = engine.bind(graph, sizes), np.random.default_rng(0)
    seconds = 0.0
    for _ in range(runs):
        fill(bound, spec, rng)
        start = time.perf_counter()
        bound.run()
        seconds += time.perf_counter() - start
    told = f"{runs} runs, {seconds / runs * 1e6:.0f} us each"
    if engine is reference or engine.name == reference.name:
        return told
    made, expected = (run_trial(each, graph, spec, sizes, 4) for each in (engine, reference))
    for name, array in expected.items():
        if array.dtype != np.float32:
            continue  # drawn: rounding may draw another
        apart = float(np.abs(made[name] - array).max(initial=0))
        if not apart <= _CLOSE * max(1.0, float(np.abs(array).max(initial=0))):
            raise VqtrtError(f"its {name} are {apart:.2g} from those of {reference.name}; {told}")
    return f"{told}, as {reference.name}'s"
