"""What a machine can do at its best: a large product of matrices, and a large copy."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

_COPY_BYTES = 128 * 2**20


def peaks(device: str, precision: str, *, seconds: float = 0.5) -> dict[str, float | None]:
    """The best of repeated runs on `cpu` or `cuda`.

    `matmul_flops_per_second`: a square product in the precision, by numpy for fp32 on the CPU,
    else by torch; None where there is no torch. `copy_bytes_per_second`: on the CPU from memory to
    memory, for a GPU from pinned memory to it.
    """
    if device == "cuda":
        return _gpu_peaks(precision, seconds)
    return {
        "matmul_flops_per_second": _cpu_product(precision, seconds),
        "copy_bytes_per_second": _cpu_copy(seconds),
    }


def best_seconds(run: Callable[[], Any], seconds: float) -> float:
    """The shortest of runs that go on for `seconds`, three at least, after one to warm up."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def _cpu_product(precision: str, seconds: float) -> float | None:
    size = 1024
    if precision == "fp32":
        a = np.random.default_rng(0).standard_normal((size, size), np.float32)
        out = np.empty_like(a)
        return 2 * size**3 / best_seconds(lambda: np.matmul(a, a, out=out), seconds)
    try:
        import torch
    except ImportError:
        return None
    from vqtrt.models.precision import torch_dtype

    half = torch.randn(size, size).to(torch_dtype(precision))
    return 2 * size**3 / best_seconds(lambda: half @ half, seconds)


def _cpu_copy(seconds: float) -> float:
    source, target = np.ones(_COPY_BYTES, np.uint8), np.empty(_COPY_BYTES, np.uint8)
    return _COPY_BYTES / best_seconds(lambda: np.copyto(target, source), seconds)


def _gpu_peaks(precision: str, seconds: float) -> dict[str, float | None]:
    return {
        "matmul_flops_per_second": _gpu_product(precision, seconds),
        "copy_bytes_per_second": _gpu_copy(seconds),
    }


def _gpu_product(precision: str, seconds: float) -> float | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    from vqtrt.models.precision import torch_dtype

    # Large enough for the fastest GPU to be busy for milliseconds.
    size = 4096 if precision == "fp32" else 8192
    a = torch.randn(size, size, device="cuda").to(torch_dtype(precision))

    def run() -> None:
        a @ a
        torch.cuda.synchronize()

    return 2 * size**3 / best_seconds(run, seconds)


def _gpu_copy(seconds: float) -> float:
    from vqtrt.engines.cuda import DeviceArray, Stream, pinned

    stream, memory = Stream(), DeviceArray(_COPY_BYTES)
    source = pinned((_COPY_BYTES,), np.uint8)

    def run() -> None:
        stream.copy_in(memory.address, source)
        stream.wait()

    return _COPY_BYTES / best_seconds(run, seconds)
