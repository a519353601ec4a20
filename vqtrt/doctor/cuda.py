"""CUDA itself: memory, copies, and work that is captured once and launched again."""

import time
from collections.abc import Callable

import numpy as np

from vqtrt.doctor.report import Report
from vqtrt.engines.cuda import DeviceArray, Stream, on_device, pinned

_NBYTES = 1 << 24
_COPIES, _LAUNCHES = 8, 100


def examine_cuda(report: Report, device: int) -> None:
    """Add what the GPU `device` does with bytes that are known."""
    report.section = f"CUDA on GPU {device}"
    with on_device(device):
        with report.checking("copies"):
            _copies(report)
        with report.checking("graphs"):
            _graphs(report)


def _copies(report: Report) -> None:
    stream, memory = Stream(), DeviceArray(_NBYTES)
    there, back = pinned((_NBYTES,), np.uint8), pinned((_NBYTES,), np.uint8)
    there[...] = np.arange(_NBYTES) % 251
    stream.copy_in(memory.address, there)
    stream.copy_out(back, memory.address)
    stream.wait()
    if not np.array_equal(there, back):
        report.failed("copies", "bytes that went to the GPU and back are others", "see nvidia-smi")
        return
    stream.zero(memory.address, _NBYTES)
    stream.copy_out(back, memory.address)
    stream.wait()
    if back.any():
        report.failed("copies", "memory that was set to zero is not", "see nvidia-smi")
        return
    ways: tuple[Callable[[], None], ...] = (
        lambda: stream.copy_in(memory.address, there),
        lambda: stream.copy_out(back, memory.address),
    )
    rates = []
    for way in ways:
        start = time.perf_counter()
        for _ in range(_COPIES):
            way()
        stream.wait()
        rates.append(_COPIES * _NBYTES / (time.perf_counter() - start) / 1e9)
    report.ok("copies", f"{rates[0]:.1f} GB/s in, {rates[1]:.1f} GB/s out, of pinned memory")


def _graphs(report: Report) -> None:
    stream, memory = Stream(), DeviceArray(1024)
    there, back = pinned((1024,), np.uint8), pinned((1024,), np.uint8)

    def work() -> None:
        stream.copy_in(memory.address, there)
        stream.copy_out(back, memory.address)

    work()
    stream.wait()
    captured = stream.capture(work)
    for value in (3, 7):  # the second with another input
        there[...] = value
        stream.launch(captured)
        stream.wait()
        if not (back == value).all():
            report.failed(
                "graphs",
                "a CUDA graph that is launched again does not see its new input",
                "set VQTRT_CUDA_GRAPHS=0, and report it",
            )
            return
    start = time.perf_counter()
    for _ in range(_LAUNCHES):
        stream.launch(captured)
    stream.wait()
    each = (time.perf_counter() - start) / _LAUNCHES * 1e6
    report.ok("graphs", f"captured and launched again, {each:.1f} us a launch of two copies")
