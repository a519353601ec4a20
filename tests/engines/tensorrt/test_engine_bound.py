import shutil
from typing import Any

import numpy as np
import pytest
from tensorrt_bundles import PACKAGES, SIZES, copied, pictures
from tensorrt_doubles import FakeTensorRT, build, pretend

from vqtrt.engines import cuda
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler


@pytest.fixture
def module(monkeypatch):
    return pretend(monkeypatch)


@pytest.fixture
def prior_bundle(tiny_prior, tmp_path):
    return copied(tiny_prior / "bundle", tmp_path)


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("package", PACKAGES)
def test_bound_graphs_are_those_of_onnxruntime(prior_bundle, module, package, graphs):
    engines = (
        TensorRTEngine(prior_bundle, EngineOptions(package), graphs=graphs),
        OnnxRuntimeEngine(prior_bundle),
    )
    sizes = {"batch": 3, "width": 4}
    found = []
    for engine in engines:
        row = engine.bind("priors/pixelcnn/row", sizes)
        shared = {"bias": row.outputs["bias"]}
        step = engine.bind("priors/pixelcnn/step", sizes, shared=shared)
        short = engine.bind("priors/pixelcnn/step", sizes, shared=shared, skip=("logits",))
        assert step.inputs["bias"] is row.outputs["bias"]
        assert (set(row.inputs), set(short.outputs)) == ({"above", "labels"}, {"codes"})
        for graph in (step, short):
            graph.inputs["noise"][:] = [[0.2], [0.5], [0.9]]
            graph.inputs["temperature"][:] = 1
            graph.inputs["code"][:] = 16
        made = []
        for count in (5, 2, 1):  # resets after an odd and an even number of runs
            row.reset()
            for r in range(count):
                row.inputs["above"][:] = r
                row.run()
                made.append(row.outputs["bias"].copy())
                step.reset()
                for column in range(3):
                    step.inputs["column"][0] = column
                    step.run()
                    made.append(step.outputs["logits"].copy())
            short.reset()
            short.inputs["column"][0] = 0
            short.run()
            made.append(short.outputs["codes"].copy())
        found.append(made)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert ("cudaGraphLaunch" in module.api.calls) == graphs


def test_a_shared_array_of_another_hand_is_copied(prior_bundle, module):
    engine, sizes = (
        TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx")),
        {"batch": 2, "width": 4},
    )
    theirs = OnnxRuntimeEngine(prior_bundle).bind("priors/pixelcnn/row", sizes)
    theirs.inputs["above"][:] = 3
    theirs.run()
    shared = {"bias": theirs.outputs["bias"]}
    steps = [
        each.bind("priors/pixelcnn/step", sizes, shared=shared)
        for each in (engine, OnnxRuntimeEngine(prior_bundle))
    ]
    for step in steps:
        step.inputs["temperature"][:] = 1
        step.inputs["noise"][:] = 0.5
        step.run()
    np.testing.assert_array_equal(steps[0].outputs["logits"], steps[1].outputs["logits"])


DRAWS = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(top_k=5, top_p=0.8, seed=3),
]


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("package", PACKAGES)
def test_samples_are_those_of_onnxruntime(prior_bundle, module, package, graphs):
    engine = TensorRTEngine(prior_bundle, EngineOptions(package), graphs=graphs)
    # 7 samples in streams of 4, as many as the engine takes.
    samplers = [
        BatchSampler(each, "pixelcnn", 16, 7, 4)
        for each in (engine, OnnxRuntimeEngine(prior_bundle))
    ]
    labels = np.arange(7, dtype=np.int32) % 3
    prefix = np.random.default_rng(0).integers(0, 16, (7, 3, 4, 1), dtype=np.int32)
    for draw in DRAWS:
        for known in (None, prefix):
            drawn = [s.sample(draw, range(7), 6, labels=labels, prefix=known) for s in samplers]
            np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len(np.unique(drawn[0])) > 3
    assert ("cudaGraphLaunch" in module.api.calls) == graphs


def test_a_row_is_one_launch(prior_bundle, module):
    engine = TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx"))
    sizes = {"batch": 4, "width": 4}
    loop: Any = engine.bind_rows("pixelcnn", "step", sizes, start_code=16)
    loop.inputs["temperature"][:] = 1
    loop.inputs["noise"][:] = 0.5
    loop.inputs["above"][:] = 16
    loop.begin()
    calls, ticks = module.api.calls, []
    for _ in range(4):
        loop.draw(lambda: ticks.append(1))
    assert (loop.captured, loop.refused, len(ticks)) == (True, None, 16)
    before = len(calls)
    loop.draw()
    assert calls[before:] == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_an_engine_that_cannot_be_captured_draws_all_the_same(prior_bundle, module):
    module.capturable = False
    engine = TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx"))
    loop: Any = engine.bind_rows("pixelcnn", "step", {"batch": 4, "width": 4}, start_code=16)
    loop.begin()
    for _ in range(4):
        loop.draw()
    assert "cannot be captured" in loop.refused
    drawn = [
        BatchSampler(each, "pixelcnn", 16, 4, 4).sample(
            SamplingParams(), range(4), 5, labels=np.zeros(4, np.int32)
        )
        for each in (engine, OnnxRuntimeEngine(prior_bundle))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert "cudaStreamBeginCapture" not in module.api.calls


def test_two_codebooks_and_no_labels(tiny_prior_bundle2, tmp_path, module):
    bundle = Bundle.open(shutil.copytree(tiny_prior_bundle2, tmp_path / "bundle"))
    build(bundle, "tensorrt-rtx", SIZES)
    drawn = [
        BatchSampler(engine, "pixelcnn", 16, 3, 4).sample(SamplingParams(), range(3), 4)
        for engine in (
            TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")),
            OnnxRuntimeEngine(bundle),
        )
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    images = pictures(5, 16, 16)
    codes = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")).open("encoder")(images)
    np.testing.assert_array_equal(codes, OnnxRuntimeEngine(bundle).open("encoder")(images))


def test_an_engine_says_only_after_a_run_that_it_can_be_captured(
    prior_bundle: Bundle, module: FakeTensorRT
) -> None:
    step = TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx")).bind(
        "priors/pixelcnn/step", {"batch": 2, "width": 4}
    )
    assert not module.contexts[0].is_stream_capturable(0)
    for _ in range(6):
        step.run()
    assert "cudaGraphLaunch" in module.api.calls


def test_what_is_slow_is_said_once(
    prior_bundle: Bundle,
    module: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuda.warn_slower.cache_clear()
    module.capturable = False
    step = TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx")).bind(
        "priors/pixelcnn/step", {"batch": 2, "width": 4}
    )
    for _ in range(6):
        step.run()
    (record,) = caplog.records
    assert record.getMessage() == (
        "runs without CUDA graphs, which is slower: TensorRT says that this engine cannot be "
        "captured now"
    )


@pytest.mark.parametrize(("value", "graphs"), [("0", False), ("1", True), (None, True)])
def test_cuda_graphs_are_off_by_a_variable(
    prior_bundle: Bundle,
    module: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    graphs: bool,
) -> None:
    monkeypatch.delenv("VQTRT_CUDA_GRAPHS", raising=False)
    if value is not None:
        monkeypatch.setenv("VQTRT_CUDA_GRAPHS", value)
    engine = TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx"))
    BatchSampler(engine, "pixelcnn", 16, 4, 4).sample(
        SamplingParams(), range(4), 6, labels=np.zeros(4, np.int32)
    )
    assert ("cudaGraphLaunch" in module.api.calls) == graphs
    assert TensorRTEngine(prior_bundle, EngineOptions("tensorrt-rtx"), graphs=True).graphs
