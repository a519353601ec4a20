"""How fast every engine runs a model's encoder and decoder here, beside plain torch.

All of it is measured in one process, in turns, because machines are noisy: what counts is the
ratios, and how far each is from what the machine can do.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.bench.peaks import peaks
from vqtrt.config.location import ModelLocation
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.base import Graph
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import ModelInfo, of_images
from vqtrt.formats.precision import PRECISIONS

ENGINES = (
    "torch",
    "torch-compile",
    "onnxruntime",
    "onnxruntime-cuda",
    "tensorrt-rtx",
    "tensorrt",
)
GRAPHS = ("encoder", "decoder")


@dataclass
class _Cell:
    """A graph on an engine."""

    engine: str
    precision: str
    graph: str
    device: str
    run: Graph
    open_seconds: float
    figures: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision} {self.graph}"


def bench_engine(
    model: ModelLocation,
    *,
    engines: Sequence[str] = ENGINES,
    precisions: Sequence[str] = ("fp32",),
    batch_sizes: Sequence[int] = (1, 16, 64),
    repeat: int = 3,
    seconds: float = 0.3,
    options: EngineOptions = AUTO,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Latency and rate of each engine, precision, graph and batch size, on pictures of noise.

    A turn runs each for `seconds`; `repeat` turns. `results` has for each `ENGINE PRECISION GRAPH
    batch N` `open_seconds`, `first_seconds` (cold: the first run of this batch), `seconds` (warm:
    the median run), `images_per_second`, and of the peaks of its device and precision the
    `matmul_share` and `copy_share`, None where not known. `peaks` has those by `DEVICE PRECISION`,
    `unavailable` says for each engine and precision that was left out why. Of `options`, engine
    and precision are replaced.
    """
    for name, known in ((engines, ENGINES), (precisions, PRECISIONS)):
        if unknown := [each for each in name if each not in known]:
            raise VqtrtError(f"bench: no {unknown[0]!r}: choose among {', '.join(known)}")
    unavailable: dict[str, str] = {}
    cells: list[_Cell] = []
    pairs = [(engine, precision) for engine in engines for precision in precisions]
    total = len(pairs) * (1 + len(GRAPHS) * len(batch_sizes))
    facts, size = _facts(model)
    for done, (engine, precision) in enumerate(pairs, 1):
        try:
            cells += _open(model, replace(options, engine=engine, precision=precision))
        except Exception as error:
            # What a package raises that is half there is as good a reason as ours.
            unavailable[f"{engine} {precision}"] = _one_line(error)
        progress(done, total)
    if not cells:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unavailable.items())
        raise VqtrtError(f"bench: no engine runs {model.path} here ({reasons})")
    done = len(pairs)
    for batch in batch_sizes:
        for graph in GRAPHS:
            some = [cell for cell in cells if cell.graph == graph]
            _measure(some, batch, _input(facts, size, graph, batch), repeat, seconds, unavailable)
            done += len(some)
            progress(done, total)
    progress(total, total)
    work = _work(model, size)
    best = {
        f"{device} {precision}": peaks(device, precision)
        for device, precision in dict.fromkeys((cell.device, cell.precision) for cell in cells)
    }
    results = {}
    for cell in cells:
        top = best[f"{cell.device} {cell.precision}"]
        for batch, figures in cell.figures.items():
            rate = figures["images_per_second"]
            shares = {
                "matmul_share": _share(work.get(cell.graph), rate, top["matmul_flops_per_second"]),
                "copy_share": _share(_bytes(facts, size), rate, top["copy_bytes_per_second"]),
            }
            results[f"{cell.name} batch {batch}"] = figures | shares
    return {
        "results": results,
        "peaks": best,
        "unavailable": unavailable,
        "flops_per_image": work or None,
        "image_size": [size.height, size.width],
    }


def _facts(model: ModelLocation) -> tuple[ModelInfo, Preprocessing]:
    if model.bundle is not None:
        info = model.open_bundle().info
        return info.model, of_images(info.preprocessing)
    from vqtrt.engines.torch import TorchEngine

    assert model.run is not None  # noqa: S101 - a model has one or the other
    opened = TorchEngine(model.run, device="cpu")
    return opened.info, of_images(opened.preprocessing)


def _open(model: ModelLocation, options: EngineOptions) -> list[_Cell]:
    """The graphs of an engine, ready to run; raises what it raises."""
    began = time.perf_counter()
    opener, device = _opener(model, options)
    made = time.perf_counter() - began
    cells = []
    for graph in GRAPHS:
        began = time.perf_counter()
        run = opener(graph)
        opened = made + time.perf_counter() - began
        cells.append(_Cell(options.engine, options.precision, graph, device, run, opened))
    return cells


def _opener(model: ModelLocation, options: EngineOptions) -> tuple[Callable[[str], Graph], str]:
    """What opens a graph, and the kind of device that it then runs on."""
    if options.engine in ("torch", "torch-compile"):
        compiled = options.engine == "torch-compile"
        return _torch_opener(model, options.precision, compiled=compiled)
    device = "cpu" if options.engine == "onnxruntime" else "cuda"
    return open_engine(model, options).open, device


def _torch_opener(
    model: ModelLocation, precision: str, *, compiled: bool
) -> tuple[Callable[[str], Graph], str]:
    """The model's modules as they are exported, in eager mode or through `torch.compile`."""
    if model.run is None:
        raise VqtrtError(f"{model.path} is a bundle alone: torch needs the run; pass --model RUN")
    try:
        import torch
    except ImportError:
        raise VqtrtError('torch is not installed: pip install "vqtrt[train]"') from None
    from vqtrt.models.image_graphs import DecoderGraph, EncoderGraph
    from vqtrt.models.precision import torch_dtype
    from vqtrt.models.runs import ImageRun

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        # Convolutions in TF32 are no fp32: the other engines also do without.
        torch.backends.cudnn.allow_tf32 = False
    weights, dtype = ImageRun.open(model.run).load_model(), torch_dtype(precision)

    def open_graph(graph: str) -> Graph:
        kind = EncoderGraph if graph == "encoder" else DecoderGraph
        module: Any = kind(weights, dtype).to(device).eval()
        if compiled:
            module = torch.compile(module, dynamic=False)

        def run(array: NDArray[Any]) -> NDArray[Any]:
            with torch.inference_mode():
                made: NDArray[Any] = module(torch.from_numpy(array).to(device)).cpu().numpy()
            return made

        return run

    return open_graph, device


def _input(facts: ModelInfo, size: Preprocessing, graph: str, batch: int) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if graph == "encoder":
        return rng.integers(256, size=(batch, size.height, size.width, 3), dtype=np.uint8)
    books = () if facts.num_codebooks == 1 else (facts.num_codebooks,)
    shape = (batch, size.height // facts.stride, size.width // facts.stride, *books)
    return rng.integers(facts.codebook_size, size=shape, dtype=np.int32)


def _measure(
    cells: list[_Cell],
    batch: int,
    array: NDArray[Any],
    repeat: int,
    seconds: float,
    unavailable: dict[str, str],
) -> None:
    """Fill in the figures of cells of one graph; one that fails is left out, with the reason."""
    times: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    for turn in range(repeat + 1):
        for cell in cells:
            if turn and cell.name not in first:
                continue
            try:
                if turn:
                    times.setdefault(cell.name, []).extend(_timed(cell.run, array, seconds))
                else:
                    first[cell.name] = _timed(cell.run, array, 0)[0]
            except Exception as error:
                first.pop(cell.name, None)
                unavailable[f"{cell.name} batch {batch}"] = _one_line(error)
    for cell in cells:
        if cell.name in first:
            taken = median(times[cell.name])
            cell.figures[batch] = {
                "open_seconds": cell.open_seconds,
                "first_seconds": first[cell.name],
                "seconds": taken,
                "images_per_second": batch / taken,
            }


def _timed(run: Graph, array: NDArray[Any], seconds: float) -> list[float]:
    """Seconds of each run, for as long as `seconds`; one at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        run(array)
        times.append(time.perf_counter() - began)
    return times


def _work(model: ModelLocation, size: Preprocessing) -> dict[str, int]:
    """Floating-point operations of a picture in each graph, as torch counts them; without, none."""
    if model.run is None:
        return {}
    try:
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        return {}
    facts, _ = _facts(model)
    opener, _ = _torch_opener(model, "fp32", compiled=False)
    counted = {}
    for graph in GRAPHS:
        run, array = opener(graph), _input(facts, size, graph, 1)
        with FlopCounterMode(display=False) as counter:
            run(array)
        counted[graph] = int(counter.get_total_flops())
    return counted


def _bytes(facts: ModelInfo, size: Preprocessing) -> int:
    """Bytes of a picture and its codes: what goes in and out of either graph."""
    positions = size.height // facts.stride * (size.width // facts.stride)
    return size.height * size.width * 3 + 4 * positions * facts.num_codebooks


def _share(each: int | None, rate: float, peak: float | None) -> float | None:
    return None if each is None or not peak else each * rate / peak


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
