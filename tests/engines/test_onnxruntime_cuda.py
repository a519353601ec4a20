"""The CUDA engine on a double of ONNX Runtime's CUDA provider; test_gpu.py has the real one."""

import copy
import gc
import logging
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime_doubles import Cuda, pretend_cuda

from vqtrt.config.location import find_model
from vqtrt.engines import cuda
from vqtrt.engines.choose import open_engine
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler
from vqtrt.images.tokenizer import ImageTokenizer

ON_A_GPU = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
LABELS = np.arange(5, dtype=np.int32) % 3


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return pretend_cuda(monkeypatch)


@pytest.fixture
def bundle(tiny_prior: Path) -> Bundle:
    return Bundle.open(tiny_prior / "bundle")


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(256, size=(n, 8, 12, 3), dtype=np.uint8)


@pytest.mark.skipif(ON_A_GPU, reason="onnxruntime has CUDA here")
def test_an_onnxruntime_without_the_provider(tiny_bundle: Path) -> None:
    with pytest.raises(VqtrtError, match=r"has no CUDAExecutionProvider: .*vqtrt\[gpu\]") as error:
        OnnxRuntimeCudaEngine(Bundle.open(tiny_bundle))
    assert "\n" not in str(error.value)


def test_a_machine_without_a_driver(
    tiny_bundle: Path, gpu: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu goes on with the CPU; `auto` takes the engine that is made for that."""

    def no_driver(device: int) -> None:
        raise VqtrtError("no CUDA driver on this machine")

    monkeypatch.setattr(cuda, "check_gpu", no_driver)
    model = find_model(tiny_bundle)
    with pytest.raises(VqtrtError, match="no CUDA driver on this machine"):
        open_engine(model, EngineOptions("onnxruntime-cuda"))
    assert open_engine(model).name == "onnxruntime"
    assert not gpu.sessions


def test_libraries_that_are_missing(
    tiny_bundle: Path, gpu: Cuda, capfd: pytest.CaptureFixture[str]
) -> None:
    gpu.loads = False
    first = r"libcublasLt\.so\.13: cannot open shared object"
    with pytest.raises(VqtrtError, match=rf"cannot use CUDA here \({first}\).*vqtrt\[gpu\]"):
        OnnxRuntimeCudaEngine(Bundle.open(tiny_bundle))
    assert open_engine(find_model(tiny_bundle)).name == "onnxruntime"
    assert capfd.readouterr() == ("", "")


def test_what_onnxruntime_logs_is_told(
    tiny_bundle: Path,
    gpu: Cuda,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Skip loading"))
    gpu.loads = False
    with pytest.raises(VqtrtError, match=r"here \(libcublasLt\.so\.13: cannot open .* directory\)"):
        OnnxRuntimeCudaEngine(Bundle.open(tiny_bundle))
    assert capfd.readouterr() == ("", "")


def test_no_folder_to_write_to_is_needed(
    bundle: Bundle, gpu: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    OnnxRuntimeCudaEngine(bundle).open("encoder")


def test_a_gpu_that_is_not_there(tiny_bundle: Path, gpu: Cuda) -> None:
    with pytest.raises(VqtrtError, match="invalid device ordinal"):
        OnnxRuntimeCudaEngine(Bundle.open(tiny_bundle), EngineOptions(device=2))


def test_graphs_run(bundle: Bundle, gpu: Cuda) -> None:
    engine, reference = (
        OnnxRuntimeCudaEngine(bundle, EngineOptions(device=1)),
        OnnxRuntimeEngine(bundle),
    )
    assert (engine.name, engine.num_streams, engine.info) == (
        "onnxruntime-cuda",
        1,
        reference.info,
    )
    codes = engine.open("encoder")(images(5))
    np.testing.assert_array_equal(codes, reference.open("encoder")(images(5)))
    for session in gpu.sessions:
        assert session.options["device_id"] == "1"
        assert session.options["use_tf32"] == "0"
        assert session.options["cudnn_conv_algo_search"] == "HEURISTIC"


def test_samples_are_those_of_the_cpu(bundle: Bundle, gpu: Cuda) -> None:
    engine, reference = OnnxRuntimeCudaEngine(bundle), OnnxRuntimeEngine(bundle)
    for draw in (SamplingParams(), SamplingParams(top_k=5, seed=3)):
        sampler = BatchSampler(engine, "pixelcnn", 16, 5, 4)
        expected = BatchSampler(reference, "pixelcnn", 16, 5, 4).sample(
            draw, range(5), 5, labels=LABELS
        )
        for _ in range(2):
            np.testing.assert_array_equal(
                sampler.sample(draw, range(5), 5, labels=LABELS), expected
            )


def test_turns_are_captured_once(bundle: Bundle, gpu: Cuda) -> None:
    engine = OnnxRuntimeCudaEngine(bundle)
    sizes = {"batch": 2, "width": 4}
    row = engine.bind("priors/pixelcnn/row", sizes)
    for _ in range(5):
        row.run()
    row.reset()
    row.run()
    session = gpu.sessions[-1]
    assert session.captures
    assert sorted(session.captured) == [0, 1]  # caches of delay 1 have two turns
    assert session.runs == 6
    # A second one has graphs of its own: their addresses differ.
    other = engine.bind("priors/pixelcnn/row", sizes)
    other.run()
    assert gpu.sessions[-1] is not session


def test_a_graph_without_caches_shares_its_session(bundle: Bundle, gpu: Cuda) -> None:
    engine = OnnxRuntimeCudaEngine(bundle)
    engine.open("encoder")
    made = len(gpu.sessions)
    for batch in (1, 2):
        bound = engine.bind("encoder", {"batch": batch, "h": 2, "w": 3})
        bound.inputs["images"][:] = images(batch)
        bound.run()
        expected = OnnxRuntimeEngine(bundle).open("encoder")(images(batch))
        np.testing.assert_array_equal(bound.outputs["codes"], expected)
    assert len(gpu.sessions) == made
    assert not gpu.sessions[-1].captures


@pytest.mark.parametrize("refusal", ["capturable", "capture_fails"])
def test_what_cannot_be_captured_runs_plainly(
    bundle: Bundle, gpu: Cuda, refusal: str, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.warn_slower.cache_clear()  # what it has told is not told again
    gpu.capturable = refusal != "capturable"
    gpu.capture_fails = refusal == "capture_fails"
    with caplog.at_level(logging.WARNING, "vqtrt"):
        sampler = BatchSampler(OnnxRuntimeCudaEngine(bundle), "pixelcnn", 16, 5, 4)
        drawn = sampler.sample(SamplingParams(), range(5), 5, labels=LABELS)
    reference = BatchSampler(OnnxRuntimeEngine(bundle), "pixelcnn", 16, 5, 4)
    np.testing.assert_array_equal(
        drawn, reference.sample(SamplingParams(), range(5), 5, labels=LABELS)
    )
    reason = "partitioned" if refusal == "capturable" else "CUDA failure 901"
    assert "without CUDA graphs" in caplog.text
    assert reason in caplog.text


def test_graphs_can_be_switched_off(
    bundle: Bundle, gpu: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQTRT_CUDA_GRAPHS", "0")
    row = OnnxRuntimeCudaEngine(bundle).bind("priors/pixelcnn/row", {"batch": 2, "width": 4})
    row.run()
    assert not any(session.captures for session in gpu.sessions)


def test_a_run_copies_its_inputs_at_once(bundle: Bundle, gpu: Cuda) -> None:
    engine = OnnxRuntimeCudaEngine(bundle)
    step = engine.bind("priors/pixelcnn/step", {"batch": 2, "width": 4}, skip=("logits",))
    assert len(step.inputs) > 3
    step.run()
    gpu.copies.clear()
    step.run()
    assert len(gpu.copies) == 1


def test_a_shared_output_is_not_copied_and_caches_reset(bundle: Bundle, gpu: Cuda) -> None:
    engine = OnnxRuntimeCudaEngine(bundle)
    sizes = {"batch": 2, "width": 4}
    row = engine.bind("priors/pixelcnn/row", sizes)
    bias = row.outputs["bias"]
    step = engine.bind("priors/pixelcnn/step", sizes, shared={"bias": bias}, skip=("logits",))
    assert step.inputs["bias"] is bias
    assert set(step.outputs) == {"codes"}
    gpu.copies.clear()
    step.run()
    assert sum(gpu.copies) < bias.nbytes
    rows = []
    for _ in range(2):
        row.reset()
        for above in range(3):
            row.inputs["above"][:] = above
            row.run()
            rows.append(bias.copy())
    np.testing.assert_array_equal(rows[:3], rows[3:])
    assert not np.allclose(rows[0], rows[1])


def test_an_output_lives_as_long_as_it_is_read(bundle: Bundle, gpu: Cuda) -> None:
    engine = OnnxRuntimeCudaEngine(bundle)
    sizes = {"batch": 2, "width": 4}
    row = engine.bind("priors/pixelcnn/row", sizes)
    step = engine.bind("priors/pixelcnn/step", sizes, shared={"bias": row.outputs["bias"]})
    del row
    gc.collect()
    step.run()


def test_an_array_of_someone_else_is_read_at_each_run(bundle: Bundle, gpu: Cuda) -> None:
    sizes = {"batch": 2, "width": 4}
    codes = []
    for engine in (OnnxRuntimeCudaEngine(bundle), OnnxRuntimeEngine(bundle)):
        above = np.zeros((2, 4, 1), np.int32)
        row = engine.bind("priors/pixelcnn/row", sizes, shared={"above": above})
        for code in range(3):
            above[:] = code
            row.run()
        codes.append(row.outputs["bias"].copy())
    np.testing.assert_allclose(codes[0], codes[1], atol=1e-6)


def test_threads_take_turns(bundle: Bundle, gpu: Cuda) -> None:
    """What one thread allocates would spoil what another captures: the double refuses it."""
    tokenizers = [ImageTokenizer(OnnxRuntimeCudaEngine(bundle), batch_size=4) for _ in range(2)]
    samplers = [BatchSampler(each.engine, "pixelcnn", 16, 5, 4) for each in tokenizers]
    codes = tokenizers[0].encode(images(5))
    drawn = samplers[0].sample(SamplingParams(), range(5), 2, labels=LABELS)

    def work(thread: int) -> bool:
        same = True
        for _ in range(20):
            same &= np.array_equal(tokenizers[thread % 2].encode(images(5)), codes)
            made = samplers[thread % 2].sample(SamplingParams(), range(5), 2, labels=LABELS)
            same &= np.array_equal(made, drawn)
        return same

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_pickles_and_copies(bundle: Bundle, gpu: Cuda) -> None:
    tokenizer = ImageTokenizer(OnnxRuntimeCudaEngine(bundle, EngineOptions(device=1)))
    codes = tokenizer.encode(images(5))
    for other in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):  # noqa: S301
        assert other.engine.gpu == 1
        np.testing.assert_array_equal(other.encode(images(5)), codes)


def test_all_batches_have_one_size(bundle: Bundle, gpu: Cuda) -> None:
    """Kernels are chosen by shape and round in their own way: codes must not depend on it."""
    engine = OnnxRuntimeCudaEngine(bundle)
    seen: list[int] = []
    real = engine.open

    def opened(graph: str):
        run = real(graph)

        def spy(array: np.ndarray) -> np.ndarray:
            seen.append(len(array))
            return run(array)

        return spy

    engine.open = opened  # type: ignore[method-assign]
    tokenizer, reference = (
        ImageTokenizer(engine, batch_size=4),
        ImageTokenizer(OnnxRuntimeEngine(bundle)),
    )
    for n in (9, 4, 1):
        codes = tokenizer.encode(images(n))
        np.testing.assert_array_equal(codes, reference.encode(images(n)))
        np.testing.assert_array_equal(tokenizer.decode(codes), reference.decode(codes))
    assert len(tokenizer.encode(images(0))) == 0
    assert set(seen) == {4}
