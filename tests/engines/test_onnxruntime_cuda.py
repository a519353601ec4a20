"""The CUDA engine's own logic, on ONNX Runtime's CPU provider where there is no GPU."""

import numpy as np
import onnxruntime
import pytest

from vqtrt.bundle import Bundle
from vqtrt.engines import onnxruntime_cuda
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from vqtrt.errors import VqtrtError
from vqtrt.sampler import BatchSampler, Draw

ON_A_GPU = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(onnxruntime_cuda, "_PROVIDERS", onnxruntime_cuda._PROVIDERS[1:])
    monkeypatch.setattr(OnnxRuntimeCudaEngine, "device", "cpu")


@pytest.mark.skipif(ON_A_GPU, reason="onnxruntime has CUDA here")
@pytest.mark.parametrize("tensorrt", [False, True])
def test_an_onnxruntime_without_the_provider(tiny_bundle, tensorrt):
    provider = "TensorrtExecutionProvider" if tensorrt else "CUDAExecutionProvider"
    with pytest.raises(VqtrtError, match=rf"has no {provider}: .*vqtrt\[gpu\]") as error:
        OnnxRuntimeCudaEngine(Bundle.open(tiny_bundle), tensorrt=tensorrt)
    assert "\n" not in str(error.value)


def test_a_provider_that_does_not_load(tiny_bundle, monkeypatch):
    """ONNX Runtime then goes on with the CPU and says nothing."""
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda content, options, providers: real(content, options, providers=providers[1:]),
    )
    with pytest.raises(VqtrtError, match="cannot use CUDAExecutionProvider here"):
        OnnxRuntimeCudaEngine(Bundle.open(tiny_bundle)).open("encoder")


def test_graphs_run(tiny_bundle, on_cpu):
    bundle = Bundle.open(tiny_bundle)
    engine, reference = OnnxRuntimeCudaEngine(bundle), OnnxRuntimeEngine(bundle)
    assert (engine.name, engine.lanes, engine.facts) == ("onnxruntime-cuda", 1, reference.facts)
    images = np.random.default_rng(0).integers(256, size=(5, 8, 12, 3), dtype=np.uint8)
    codes = engine.open("encoder")(images)
    np.testing.assert_array_equal(codes, reference.open("encoder")(images))


def test_samples_are_those_of_the_cpu(tiny_prior, on_cpu):
    bundle = Bundle.open(tiny_prior / "bundle")
    labels = np.arange(5, dtype=np.int32) % 3
    for draw in (Draw(), Draw(top_k=5, seed=3)):
        drawn = [
            BatchSampler(engine, "pixelcnn", 16, 5, 4).sample(draw, range(5), 5, labels)
            for engine in (OnnxRuntimeCudaEngine(bundle), OnnxRuntimeEngine(bundle))
        ]
        np.testing.assert_array_equal(*drawn)


def test_a_shared_output_is_not_copied_and_caches_reset(tiny_prior, on_cpu):
    engine = OnnxRuntimeCudaEngine(Bundle.open(tiny_prior / "bundle"))
    sizes = {"batch": 2, "width": 4}
    row = engine.bind("priors/pixelcnn/row", sizes)
    step = engine.bind(
        "priors/pixelcnn/step", sizes, shared={"bias": row.outputs["bias"]}, skip=("logits",)
    )
    assert step.inputs["bias"] is row.outputs["bias"]
    assert set(step.outputs) == {"codes"}
    assert "bias" not in step._copied
    rows = []
    for _ in range(2):
        row.reset()
        for above in range(3):
            row.inputs["above"][:] = above
            row.run()
            rows.append(row.outputs["bias"].copy())
    np.testing.assert_array_equal(rows[:3], rows[3:])
    assert not np.allclose(rows[0], rows[1])
