"""Step loops of every engine against plain queues, over more than a period of a vctk decoder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime_doubles import pretend_cuda
from step_graphs import LEVELS, VCTK, ByHand, step_bundle
from tensorrt_doubles import build, pretend

from vqtrt.engines.base import Engine, StepLoop
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.rings import period
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.formats.bundle import Bundle, TensorSpec

TENSORRT = ["tensorrt", "tensorrt-rtx"]
ENGINES = ["onnxruntime", "onnxruntime-cuda", *TENSORRT]
ODD = (1, 3, 5, 16, 17, 40)
"""Delays shorter than 16 runs, as long, and longer, whose period of 16,320 nobody waits for."""


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


def opened(bundle: Bundle, name: str, patch: pytest.MonkeyPatch, **how: Any) -> Engine:
    """An engine, on the doubles if it needs a GPU."""
    if name == "onnxruntime":
        return OnnxRuntimeEngine(bundle)
    if name == "onnxruntime-cuda":
        pretend_cuda(patch)
        return OnnxRuntimeCudaEngine(bundle)
    build(bundle, name, {"batch": (1, 8), "t": (1, 200)})
    return TensorRTEngine(bundle, EngineOptions(name), **how)


def draw(loop: StepLoop, total: int, frame: int = 16) -> NDArray[np.int32]:
    """Levels (total, N, u) from the beginning."""
    noise, bias = given(loop.drawn.shape[1:], total)
    loop.inputs["temperature"][:] = 1
    loop.begin()
    found = []
    for start in range(0, total, loop.runs):
        runs = min(loop.runs, total - start)
        loop.inputs["bias"][:] = bias[start // frame]
        loop.inputs["noise"][:runs] = noise[start : start + runs]
        loop.draw(runs)
        found.append(loop.drawn[:runs].copy())
    return np.concatenate(found)


def expected(
    delays: Sequence[int], shape: tuple[int, ...], total: int, frame: int = 16
) -> NDArray[np.int32]:
    """The same by the definition."""
    noise, bias = given(shape, total)
    step = ByHand(delays, shape[0])
    return np.stack([step.run(bias[run // frame], noise[run]) for run in range(total)])


def given(shape: tuple[int, ...], total: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Noise (total, N, u), and biases (N, 1), one a frame."""
    noise = np.random.default_rng(0).random((total, *shape), np.float32)
    frames = np.random.default_rng(1).random((total, shape[0], 1), np.float32)
    return noise, frames


@pytest.mark.parametrize(
    ("name", "delays"),
    [*((name, VCTK) for name in ENGINES), *((name, ODD) for name in TENSORRT)],
    ids=[*(f"{name}-vctk" for name in ENGINES), *(f"{name}-odd" for name in TENSORRT)],
)
def test_a_loop_draws_what_queues_draw(
    name: str, delays: tuple[int, ...], tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    if name in TENSORRT:
        pretend(patch)
    engine = opened(step_bundle(tmp_path / "bundle", delays), name, patch)
    loop = engine.bind_steps("step", 3, runs=16, start=LEVELS)
    assert loop.runs == 16
    total = 2 * 256 + 24  # two periods of a vctk decoder, and half a frame
    wanted = expected(delays, (3, 4), total)
    assert len(np.unique(wanted)) == LEVELS
    # Again from the beginning, after whole launches and after a part of one.
    for runs in (total, 40, total):
        np.testing.assert_array_equal(draw(loop, runs), wanted[:runs])


def test_the_period_of_a_vctk_decoder() -> None:
    caches = [TensorSpec(name="cache", dtype="float32", shape=(1,), delay=d) for d in VCTK]
    assert period(caches) == 256


@pytest.mark.parametrize("name", TENSORRT)
def test_one_capture_does_for_all_launches(
    name: str, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    calls = pretend(patch).api.calls
    engine = opened(step_bundle(tmp_path / "bundle"), name, patch)
    loop = engine.bind_steps("step", 3, runs=16, start=LEVELS)
    draw(loop, 16)
    assert calls.count("cudaStreamBeginCapture") == 0  # the first run is plain
    draw(loop, 2 * 256)
    assert calls.count("cudaStreamBeginCapture") == 1
    assert calls.count("cudaGraphLaunch") == 2 * 256 // 16
    before = len(calls)
    loop.draw(16)
    told = [name for name in calls[before:] if name.startswith(("cudaGraph", "cudaStream"))]
    assert told == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_a_loop_without_cuda_graphs(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    module = pretend(patch)
    bundle = step_bundle(tmp_path / "bundle", ODD)
    engine = opened(bundle, "tensorrt-rtx", patch, graphs=False)
    wanted = expected(ODD, (2, 4), 64)
    loop = engine.bind_steps("step", 2, runs=16, start=LEVELS)
    np.testing.assert_array_equal(draw(loop, 64), wanted)
    module.capturable = False
    loop = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).bind_steps(
        "step", 2, runs=16, start=LEVELS
    )
    np.testing.assert_array_equal(draw(loop, 64), wanted)
    assert "cudaStreamBeginCapture" not in module.api.calls


@pytest.mark.parametrize(("runs", "found"), [(1, 1), (16, 16), (64, 64), (96, 48), (67, 1)])
def test_long_frames_are_several_launches(
    runs: int, found: int, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    pretend(patch)
    engine = opened(step_bundle(tmp_path / "bundle", (1, 2)), "tensorrt", patch)
    loop = engine.bind_steps("step", 1, runs=runs, start=LEVELS)
    assert loop.runs == found
    wanted = expected((1, 2), (1, 4), 2 * runs, frame=runs)
    np.testing.assert_array_equal(draw(loop, 2 * runs, frame=runs), wanted)
