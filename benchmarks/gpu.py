"""Every engine on one GPU: pictures a second, samples a second, and the share of its peak.

python benchmarks/gpu.py runs/cifar10-small > benchmarks/results/DATE-gpu.md

The run is one that `vqtrt export RUN --precision fp16` has exported. TensorRT engines are built
here, for each package that is installed. Without a GPU it ends with status 1 and one line.
"""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vqtrt.bench.engine import ENGINES, bench_engine
from vqtrt.bench.peaks import peaks
from vqtrt.config.location import ModelLocation, find_model
from vqtrt.engines import cuda
from vqtrt.engines.base import Engine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.errors import VqtrtError
from vqtrt.formats.precision import graph_key
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler

BATCHES = (1, 64, 256)
SAMPLES = (1, 64)
REPEAT = 3


def main() -> None:
    try:
        cuda.check_gpu()
        model = find_model(sys.argv[1] if len(sys.argv) > 1 else None)
        _report(model)
    except VqtrtError as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        sys.exit(1)


def _report(model: ModelLocation) -> None:
    graphs = model.open_bundle().info.graphs
    precisions = [p for p in ("fp32", "fp16", "bf16") if graph_key(p, "encoder") in graphs]
    print(f"# Engines on a GPU: {model.path.name}\n\n{_machine()}\n")
    for package in trt_package.NAMES:
        print(f"{_build(model, package, precisions)}\n", flush=True)
    engines = [name for name in ENGINES if name != "onnxruntime"]
    found = bench_engine(
        model, engines=engines, precisions=precisions, batch_sizes=BATCHES, repeat=REPEAT
    )
    for name, best in found["peaks"].items():
        product, copy = best["matmul_flops_per_second"], best["copy_bytes_per_second"]
        tera = f"{product / 1e12:.4g} TFLOP/s" if product else "not measured"
        print(f"- Peak, {name}: product of matrices {tera}, copy {copy / 1e9:.4g} GB/s")
    print(
        "\n| engine, precision, graph, batch | images/s | warm, ms | cold, s | open, s | of the "
        "product's peak | of the copy's peak |\n|---|---|---|---|---|---|---|"
    )
    for name, row in found["results"].items():
        cells = [
            f"{row['images_per_second']:.4g}",
            f"{row['seconds'] * 1e3:.4g}",
            f"{row['first_seconds']:.3g}",
            f"{row['open_seconds']:.3g}",
            _percent(row["matmul_share"]),
            _percent(row["copy_share"]),
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(flush=True)
    unavailable = dict(found["unavailable"])
    for prior in model.open_bundle().info.priors:
        _priors(model, prior, precisions, unavailable)
    for reason in dict.fromkeys(unavailable.values()):
        names = [name for name, why in unavailable.items() if why == reason]
        print(f"- {'; '.join(names)}: {reason}")


def _build(model: ModelLocation, package: str, precisions: list[str]) -> str:
    from vqtrt.export.tensorrt.build import build_engines, engine_options

    began = time.perf_counter()
    try:
        options = engine_options(package, ",".join(map(str, BATCHES)))
        built = build_engines(model.open_bundle(), options, precisions)
    except VqtrtError as error:
        return f"- {package}: {error}"
    seconds = time.perf_counter() - began
    version = trt_package.load(package).version
    return f"- {package} {version}: {len(built)} engines built in {seconds:.3g} s"


def _priors(
    model: ModelLocation, prior: str, precisions: list[str], unavailable: dict[str, str]
) -> None:
    facts = model.open_bundle().info.priors[prior]
    positions = facts.height * facts.width
    print(
        f"Prior {prior}, {facts.height}x{facts.width} codes; a step is one position of a batch.\n\n"
        "| engine, precision | batch | samples/s | µs a step | of the product's peak |\n"
        "|---|---|---|---|---|"
    )
    for name, precision, opener in _samplers(model, precisions):
        for batch in SAMPLES:
            try:
                seconds = _draw(opener(), prior, batch)
            except Exception as error:
                reason = " ".join(str(error).split())
                unavailable[f"{name} {precision}, prior {prior}, batch {batch}"] = reason
                continue
            peak = peaks("cuda", precision)["matmul_flops_per_second"]
            share = batch * _work(model, prior) / seconds / peak if peak else None
            rates = f"{batch / seconds:.4g} | {seconds / positions * 1e6:.4g}"
            print(f"| {name} {precision} | {batch} | {rates} | {_percent(share)} |", flush=True)
    print()


def _samplers(
    model: ModelLocation, precisions: list[str]
) -> Iterator[tuple[str, str, Callable[[], Engine]]]:
    """What can draw samples: a name, a precision, and how it is opened."""

    def torch_engine() -> Engine:
        from vqtrt.engines.torch import TorchEngine

        if model.run is None:
            raise VqtrtError("torch needs the run")
        return TorchEngine(model.run)

    def on_cuda(precision: str) -> Engine:
        from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine

        return OnnxRuntimeCudaEngine(model.open_bundle(), EngineOptions(precision=precision))

    def tensorrt(package: str, precision: str, graphs: bool) -> Engine:
        from vqtrt.engines.tensorrt.engine import TensorRTEngine

        return TensorRTEngine(model.open_bundle(), EngineOptions(package, precision), graphs=graphs)

    yield "torch, position by position", "fp32", torch_engine
    for precision in precisions:
        yield "onnxruntime-cuda, position by position", precision, lambda p=precision: on_cuda(p)
        for package in trt_package.NAMES:
            for graphs in (False, True):
                name = f"{package}, {'a CUDA graph a row' if graphs else 'without CUDA graphs'}"
                yield name, precision, lambda a=(package, precision, graphs): tensorrt(*a)


def _draw(engine: Engine, prior: str, batch: int) -> float:
    """Seconds of drawing a batch, the median of some, once everything is compiled."""
    facts = engine.priors[prior]
    sampler = BatchSampler(engine, prior, facts.codebook_size, batch, facts.width)
    labels = np.zeros(batch, np.int32) if facts.classes else None
    times = []
    for turn in range(REPEAT + 1):
        began = time.perf_counter()
        sampler.sample(SamplingParams(seed=turn), range(batch), facts.height, labels=labels)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def _work(model: ModelLocation, prior: str) -> int:
    """Operations that a sample takes: those of a full forward pass, which the caches share out."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from vqtrt.priors.runs import trained_priors

    if model.run is None:
        return 0
    trained = trained_priors(model.run)[prior]
    facts, module = trained.info(), trained.load()
    codes = torch.zeros(1, facts.height, facts.width, facts.num_codebooks, dtype=torch.int32)
    labels = torch.zeros(1, dtype=torch.int32) if facts.classes else None
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(codes, labels)
    return int(counter.get_total_flops())


def _percent(share: Any) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


def _machine() -> str:
    gpu = trt_package.device()
    named = f"{gpu.name}, compute capability {gpu.capability}" if gpu else "an unknown GPU"
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    return f"Machine: {named}; {processor}; Python {platform.python_version()}."


if __name__ == "__main__":
    main()
