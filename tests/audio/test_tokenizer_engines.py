import copy
import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from speech_calls import CHUNK, codes_of, same
from speech_doubles import STRIDE, noise
from speech_runs import copied, exported
from tensorrt_doubles import build, pretend
from tensorrt_engine_doubles import FakeContext

from vqtrt.audio import chunks
from vqtrt.audio.chunks import chunk_codes
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.engines.lengths import grid_length
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.engines.torch import TorchEngine
from vqtrt.formats.bundle import Bundle


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", CHUNK * STRIDE)


WORK = [(1, 40), (16, 600), (3, 33), (250,)]
"""Samples of the recordings, and codes of the clips, of some calls: whole, cut, and in batches."""


@pytest.fixture(params=["onnxruntime", "torch"])
def real(request: pytest.FixtureRequest) -> AudioTokenizer:
    """A tokenizer with a conv decoder on a real engine."""
    run = exported("conv").run
    assert run is not None
    if request.param == "torch":
        return AudioTokenizer(TorchEngine(run, device="cpu"), batch_size=3)
    # Two threads: ONNX Runtime then has one of its own, which a fork does not copy.
    engine = OnnxRuntimeEngine(Bundle.open(run / "bundle"), EngineOptions(threads=2))
    return AudioTokenizer(engine, batch_size=3)


def call(made: AudioTokenizer, number: int) -> list[np.ndarray]:
    """What one of the calls gives: codes, and audio."""
    lengths = WORK[number % len(WORK)]
    codes = made.encode([noise(seed, length) for seed, length in enumerate(lengths)])
    clips = [codes_of(number % len(WORK), 1 + length // 4, 16) for length in lengths]
    return [*codes, *made.decode(clips, [i % 3 for i in range(len(clips))])]


def test_threads_share_a_tokenizer(real: AudioTokenizer) -> None:
    expected = [call(real, number) for number in range(len(WORK))]

    def many(thread: int) -> int:
        numbers = [(thread + each) % len(WORK) for each in range(200)]
        return sum(not same(call(real, number), expected[number]) for number in numbers)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(many, range(4))) == [0] * 4


def test_pickles_and_copies_of_a_tokenizer_that_was_used(real: AudioTokenizer) -> None:
    expected = call(real, 2)
    for other in (pickle.loads(pickle.dumps(real)), copy.deepcopy(real)):  # noqa: S301
        assert same(call(other, 2), expected)
    assert same(call(real, 2), expected)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_uses_a_tokenizer_that_was_used(real: AudioTokenizer) -> None:
    expected = call(real, 2)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # it would hang
        wrong = 1
        try:
            wrong = int(not same(call(real, 2), expected))
        finally:
            os._exit(wrong)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pickled_tokenizer_with_a_wavenet_draws_the_same() -> None:
    engine = OnnxRuntimeEngine(exported("wavenet").open_bundle(), EngineOptions(threads=2))
    made = AudioTokenizer(engine, batch_size=3, seed=5)
    clips = [codes_of(seed, 3 + seed, 16) for seed in range(4)]
    expected = made.decode(clips, [0, 1, 2, 0])
    for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):  # noqa: S301
        assert same(other.decode(clips, [0, 1, 2, 0]), expected)


def test_a_spawned_process_uses_a_tokenizer_that_was_used() -> None:
    model = exported("conv")
    made = AudioTokenizer(OnnxRuntimeEngine(model.open_bundle()))
    audio = noise(1, 5000)
    expected = made.encode(audio)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(made.encode, (audio,)), expected)


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_sees_few_shapes(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copied("conv", tmp_path).open_bundle()
    module = pretend(monkeypatch)
    shapes, run = set(), FakeContext.execute_async_v3

    def counted(context: FakeContext, stream: int) -> bool:
        shapes.add(context._now())
        return run(context, stream)

    monkeypatch.setattr(FakeContext, "execute_async_v3", counted)
    longest = max(chunk_codes(16, 30), chunk_codes(16, 40))
    build(bundle, package, {"batch": (1, 4), "t": (1, longest)}, graphs=["encoder", "decoder"])
    made = AudioTokenizer(TensorRTEngine(bundle, EngineOptions(package)), batch_size=4)
    plain = AudioTokenizer(OnnxRuntimeEngine(bundle, EngineOptions(threads=1)), batch_size=4)
    rng = np.random.default_rng(0)
    lengths = [int(length) for length in rng.integers(1, 3000, 200)]
    for start in range(0, 200, 25):
        clips = [noise(seed, length) for seed, length in enumerate(lengths[start : start + 25])]
        codes = made.encode(clips)
        assert same(codes, plain.encode(clips))
        audio = made.decode(codes, [0] * 25)
        assert all(
            np.allclose(a, b, atol=1e-5)
            for a, b in zip(audio, plain.decode(codes, [0] * 25), strict=True)
        )
    # Two sets of buffers for each of both graphs, and a shape for each length of the grid.
    assert len(module.contexts) <= 4
    grid = {grid_length(count) for count in range(1, longest + 1)}
    assert len(shapes) <= 2 * (len(grid) + 1)
