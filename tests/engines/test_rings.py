"""Caches that come back after their delay, on every engine and its double."""

import numpy as np
import pytest
import speech_runs
from onnxruntime_doubles import pretend_cuda
from tensorrt_doubles import build, pretend

from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.rings import caches_of, period, read_slot, written_slot
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.engines.torch import TorchEngine
from vqtrt.formats.bundle import Bundle, TensorSpec

RUNS = 23  # the period is 4: all turns several times, and not a whole number of them


def cache(delay):
    return TensorSpec(name="cache0", dtype="float32", shape=(1,), delay=delay)


@pytest.mark.parametrize("delay", [1, 2, 3, 8])
def test_what_a_run_writes_is_read_after_the_delay(delay):
    spec, ring = cache(delay), [0] * (2 * delay)
    for run in range(50):
        turn = run % period([spec])
        assert ring[read_slot(spec, turn)] == max(0, run - delay + 1)
        assert read_slot(spec, turn) != written_slot(spec, turn)
        ring[written_slot(spec, turn)] = run + 1


def test_periods():
    assert period([]) == period([cache(1)]) == 2
    assert period([cache(1), cache(4), cache(2)]) == 8
    assert period([cache(3), cache(2)]) == 12
    image = TensorSpec(name="images", dtype="uint8", shape=(1,))
    assert caches_of([image, cache(2)]) == [cache(2)]


@pytest.fixture(params=["torch", "onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def engine(request, monkeypatch, tmp_path):
    model = speech_runs.exported("wavenet")
    if request.param == "torch":
        return TorchEngine(model.run, device="cpu")
    if request.param == "onnxruntime":
        return OnnxRuntimeEngine(model.open_bundle())
    if request.param == "onnxruntime-cuda":
        pretend_cuda(monkeypatch)
        return OnnxRuntimeCudaEngine(model.open_bundle())
    bundle = Bundle.open(speech_runs.copied("wavenet", tmp_path).bundle)
    pretend(monkeypatch)
    build(bundle, request.param, {"batch": (1, 8), "t": (1, 40)})
    return TensorRTEngine(bundle, EngineOptions(request.param))


def drawn(step, runs):
    """Levels and logits of some runs from the start."""
    rng = np.random.default_rng(0)
    step.reset()
    step.inputs["temperature"][:] = 1
    step.inputs["previous"][:] = 256
    found = []
    for _ in range(runs):
        for name in ("noise", "bias"):
            step.inputs[name][:] = rng.random(step.inputs[name].shape)
        step.run()
        step.inputs["previous"][:] = step.outputs["levels"][:, -1]
        found.append((step.outputs["levels"].copy(), step.outputs["logits"].copy()))
    levels, logits = zip(*found, strict=True)
    return np.concatenate(levels, 1), np.stack(logits, 1)


def test_the_step_of_a_wavenet(engine):
    reference = TorchEngine(speech_runs.exported("wavenet").run, device="cpu")
    step, expected = (each.bind("step", {"batch": 3}) for each in (engine, reference))
    wanted = drawn(expected, RUNS)
    assert wanted[1].std() > 0.1
    # After an odd number of runs, and after some that are no whole period.
    for runs in (RUNS, RUNS, 6, RUNS):
        levels, logits = drawn(step, runs)
        np.testing.assert_array_equal(levels, wanted[0][:, : levels.shape[1]])
        np.testing.assert_allclose(logits, wanted[1][:, :runs], atol=1e-4)


def test_outputs_that_are_skipped(engine):
    step = engine.bind("step", {"batch": 2}, skip=("logits",))
    assert set(step.outputs) == {"levels"}
    both = engine.bind("step", {"batch": 2})
    for each in (step, both):
        each.inputs["temperature"][:] = 1
        each.inputs["noise"][:] = 0.4
        each.run()
    np.testing.assert_array_equal(step.outputs["levels"], both.outputs["levels"])


def test_a_graph_of_two_inputs(engine):
    reference = TorchEngine(speech_runs.exported("wavenet").run, device="cpu")
    codes = np.random.default_rng(0).integers(0, 17, (11, 6)).astype(np.int32)
    speakers = (np.arange(11) % 3).astype(np.int32)
    expected = reference.open("conditioning")(codes, speakers)
    # Above the largest batch of a profile, too, and in one go.
    for n in (11, 8, 1):
        bias = engine.open("conditioning")(codes[:n], speakers[:n])
        assert bias.shape == (12, n, 96)
        np.testing.assert_allclose(bias, expected[:, :n], atol=1e-5)
    bound = engine.bind("conditioning", {"batch": 4, "t": 6})
    bound.inputs["codes"][:] = codes[:4]
    bound.inputs["speakers"][:] = speakers[:4]
    bound.run()
    np.testing.assert_allclose(bound.outputs["bias"], expected[:, :4], atol=1e-5)


def test_the_facts(engine):
    speech = engine.speech
    assert speech.speakers == ("ann", "bob")
    assert (speech.decoder, speech.hop, speech.unroll) == ("wavenet", 8, 2)
    assert engine.preprocessing is None
    assert (engine.info.stride, engine.info.codebook_size) == (16, 16)
