"""The doctor's own model on every engine that is here, compared with numpy."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.doctor import graph as doctor_graph
from vqtrt.doctor.report import Report
from vqtrt.engines.base import BoundGraph, Engine
from vqtrt.engines.choose import installed
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle

_BATCHES, _MOST = (1, 16, 64), 64
_MARGIN = 1e-4
"""Two scores nearer than this share of them may change places by rounding in float32."""
_CLOSE = 1e-4
_RUNS = 12
"""Of the step, with another input each: CUDA graphs are captured by the fifth."""
_AGAIN = 20


def examine_engines(report: Report, folder: Path, gpus: int, device: int) -> None:
    """Add a line an engine; the model is written into the empty `folder`."""
    report.section = "engines"
    report.hide(folder, "BUILT-IN")
    bundle = report.attempt("built-in model", lambda: _write(folder))
    if bundle is None:
        return
    ran = False
    if installed("onnxruntime"):
        with report.checking("onnxruntime"):
            _onnxruntime(report, bundle)
            ran = True
        if gpus:
            with report.checking("onnxruntime-cuda"):
                _onnxruntime_cuda(report, bundle, device)
    if installed("torch"):
        with report.checking("torch"):
            _torch(report, gpus, device)
            ran = True
    for package in trt_package.NAMES:
        if trt_package.installed(package):
            with report.checking(package):
                ran = _tensorrt(report, bundle, package, gpus, device) or ran
    if not ran:
        report.warning("engines", "none is installed", 'pip install "vqtrt[cpu]"')


def _write(folder: Path) -> Bundle:
    """The model as a bundle, whose graphs have the hashes that they should."""
    bundle = doctor_graph.write_bundle(folder)
    for name in bundle.info.graphs:
        bundle.graph_bytes(name)
    return bundle


def _onnxruntime(report: Report, bundle: Bundle) -> None:
    from vqtrt.engines.onnxruntime import OnnxRuntimeEngine

    report.ok("onnxruntime", _run(OnnxRuntimeEngine(bundle)))


def _onnxruntime_cuda(report: Report, bundle: Bundle, device: int) -> None:
    import onnxruntime

    from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return  # the packages say so
    report.ok("onnxruntime-cuda", _run(OnnxRuntimeCudaEngine(bundle, EngineOptions(device=device))))


def _torch(report: Report, gpus: int, device: int) -> None:
    """The engine torch runs no ONNX: the same arithmetic there."""
    import torch

    places = ["cpu"]
    if gpus:
        if torch.cuda.is_available():
            places.append(f"cuda:{device}")
        else:
            report.warning(
                "torch", f"torch {torch.__version__} (CUDA {torch.version.cuda}) uses no GPU"
            )
    images = _noise(_MOST)
    expected, margins = doctor_graph.encode(images)
    torch.backends.cudnn.allow_tf32 = False  # as the engine does
    for place in places:
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(place).float().permute(0, 3, 1, 2)
            kernel, scores = (
                torch.from_numpy(weight).to(place)
                for weight in (doctor_graph.KERNEL, doctor_graph.SCORES)
            )
            hidden = torch.nn.functional.conv2d(pixels, kernel, stride=doctor_graph.STRIDE).relu()
            codes = torch.nn.functional.conv2d(hidden, scores).argmax(1).cpu().numpy()
        _check_codes(codes, expected, margins, f"on {place}")
    report.ok("torch", f"torch {torch.__version__} on {', '.join(places)}: codes as numpy's")


def _tensorrt(
    report: Report, bundle: Bundle, name: trt_package.PackageName, gpus: int, device: int
) -> bool:
    """Build the model, load it, and run it; whether it could run."""
    package = trt_package.load(name)
    with package.logging() as log:
        try:
            gpu = trt_package.device(device) if gpus else None
            if gpu is None and not package.is_rtx:
                report.ok(
                    name, "not tried: it compiles on the GPU that it is for, and none is here"
                )
                return False
            if gpu is not None:
                package.check_device(gpu)
            start = time.perf_counter()
            build(bundle, name, device)
            built = f"built in {time.perf_counter() - start:.1f} s"
            if gpu is None:
                report.ok(name, f"{built}; not run: no GPU is here")
                return False
            report.ok(name, f"{built}; {_run_plans(bundle, name, device)}")
            return True
        finally:
            report.log(name, log)


def build(bundle: Bundle, name: trt_package.PackageName, device: int) -> None:
    """Compile the model's graphs into its bundle, for batches of 1, 16 and 64."""
    from vqtrt.export.tensorrt.build import build_engines, engine_options

    batches = ",".join(map(str, _BATCHES))
    build_engines(bundle, engine_options(name, batches, device=device))


def _run_plans(bundle: Bundle, name: str, device: int) -> str:
    """Run the plans twice, as two processes would: the second finds what the first compiled."""
    from vqtrt.engines.tensorrt.engine import TensorRTEngine

    told = []
    for _ in range(2):
        engine = TensorRTEngine(bundle, EngineOptions(name, device=device, trust_engines=True))
        told.append(_run(engine))
        for graph in bundle.info.graphs:
            engine.plan(graph, {}).save_cache()
    return f"{told[0]}; loaded again: {told[1]}"


def _run(engine: Engine) -> str:
    """Run all graphs, some of them often; says how fast. Raises `VqtrtError` for a wrong result."""
    images = _noise(_MOST)
    expected, margins = doctor_graph.encode(images)
    encode = engine.open("encoder")
    start = time.perf_counter()
    first = encode(images)
    seconds = time.perf_counter() - start
    _check_codes(first, expected, margins, "in a batch of 64")
    for size in _BATCHES[:2]:
        _check_codes(encode(images[:size]), expected[:size], margins[:size], f"in one of {size}")
    for _ in range(_AGAIN):  # kernels that are exchanged while a job runs would change codes
        if not np.array_equal(encode(images), first):
            raise VqtrtError("the same pictures get other codes when they are encoded again")
    start = time.perf_counter()
    encode(images)
    rate = len(images) / (time.perf_counter() - start)
    count = doctor_graph.STATIC[0]
    static = engine.bind("static", {})
    static.inputs["images"][...] = images[:count]
    static.run()
    _check_codes(static.outputs["codes"], expected[:count], margins[:count], "at a static shape")
    each, captured = _loops(engine)
    return (
        f"codes and steps as numpy's; first batch {seconds * 1e3:.1f} ms, then {rate:,.0f} "
        f"pictures/s of 32x32; {each * 1e6:.0f} us a step{captured}"
    )


def _loops(engine: Engine) -> tuple[float, str]:
    """Two loops of the step beside each other, of several batches: the seconds of a run."""
    each, captured = 0.0, ""
    for batch in (1, 16):
        bounds = [engine.bind("step", {"batch": batch}) for _ in range(2)]
        for seed, bound in enumerate(bounds):
            inputs = _values(_RUNS, batch, seed)
            start = time.perf_counter()
            made = [_step(bound, x) for x in inputs]
            each = (time.perf_counter() - start) / _RUNS
            apart = float(np.abs(np.stack(made) - doctor_graph.steps(inputs)).max())
            if not apart <= _CLOSE:
                raise VqtrtError(
                    f"a loop with a cache is {apart:.2g} from numpy at a batch of {batch}: caches "
                    "or CUDA graphs do not work here"
                )
            captured = _captured(bound)
    return each, captured


def _captured(bound: BoundGraph) -> str:
    """Whether a loop on a GPU became CUDA graphs, or why not; empty on a CPU."""
    turns = getattr(bound, "_repeated", None)
    if not turns:
        return ""
    refused = next((turn.refused for turn in turns if turn.refused), None)
    if refused:
        return f", not captured: {refused}"
    return ", captured" if all(turn.captured for turn in turns) else ", not captured"


def _step(bound: BoundGraph, x: NDArray[np.float32]) -> NDArray[Any]:
    bound.inputs["x"][...] = x
    bound.run()
    return np.array(bound.outputs["y"])


def _check_codes(
    codes: NDArray[Any], expected: NDArray[Any], margins: NDArray[Any], where: str
) -> None:
    """Raise `VqtrtError` if codes differ by more than rounding."""
    wrong = codes != expected
    if codes.shape == expected.shape and not (margins[wrong] > _MARGIN).any():
        return
    raise VqtrtError(
        f"{int(np.sum(wrong))} of {expected.size} codes are not those of numpy {where}: this "
        "engine computes something else here; update driver and package, and report it"
    )


def _noise(count: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *doctor_graph.STATIC[1:]), dtype=np.uint8)


def _values(runs: int, batch: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((runs, batch, doctor_graph.WIDTH), dtype=np.float32)
