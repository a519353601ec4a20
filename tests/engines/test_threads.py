"""What threads share: sessions, open graphs, a tokenizer, samplers. Each gets its own results."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from prior_doubles import K, exported_prior

from vqtrt.audio.sampler import ClipSampler
from vqtrt.config.location import find_model
from vqtrt.engines.base import Engine
from vqtrt.engines.choose import open_engine
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler
from vqtrt.images.tokenizer import ImageTokenizer

THREADS, CALLS, KINDS = 4, 200, 5
"""Of calls that differ, `KINDS`: each is made again and again in every thread."""
ENGINES = ["onnxruntime", "torch"]


def check_threads(work: Callable[[int], NDArray[Any]]) -> None:
    """`CALLS` calls of `work` in each of `THREADS` threads give what one thread gets."""
    alone = [work(kind) for kind in range(KINDS)]
    assert any((one != alone[0]).any() for one in alone[1:])

    def many(thread: int) -> list[int]:
        order = [(thread + call) % KINDS for call in range(CALLS)]
        return [kind for kind in order if not np.array_equal(work(kind), alone[kind])]

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = list(pool.map(many, range(THREADS)))
    assert wrong == [[]] * THREADS


@pytest.mark.parametrize("name", ENGINES)
def test_a_tokenizer(tiny_run: Path, tiny_bundle: Path, name: str) -> None:
    tokenizer = ImageTokenizer(open_engine(find_model(tiny_run), EngineOptions(name)), batch_size=2)
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(KINDS, 3, 8, 12, 3), dtype=np.uint8)

    def there_and_back(kind: int) -> NDArray[Any]:
        codes = tokenizer.encode(images[kind])
        return np.concatenate([codes.ravel(), tokenizer.decode(codes).ravel()])

    check_threads(there_and_back)


@pytest.mark.parametrize("name", ENGINES)
def test_a_sampler_of_images(tiny_prior: Path, name: str) -> None:
    engine = open_engine(find_model(tiny_prior), EngineOptions(name))
    sampler = BatchSampler(engine, "pixelcnn", 16, 2, 2)
    labels = np.array([0, 2], np.int32)
    draws = [SamplingParams(seed=kind) for kind in range(KINDS - 1)] + [SamplingParams(top_k=5)]
    check_threads(lambda kind: sampler.sample(draws[kind], range(2), 1, labels=labels))


@pytest.mark.parametrize("name", ENGINES)
def test_a_sampler_of_clips(request: pytest.FixtureRequest, name: str) -> None:
    engine: Engine
    if name == "onnxruntime":
        engine, size = OnnxRuntimeEngine(Bundle.open(exported_prior())), K
    else:
        run = request.getfixturevalue("tiny_speech_prior")
        engine, size = TorchEngine(run, device="cpu"), 16
    sampler = ClipSampler(engine.bind_steps, "wavenet", size, 2)
    draws = [SamplingParams(seed=kind) for kind in range(KINDS - 1)] + [SamplingParams(top_k=5)]
    speakers = np.array([0, 1], np.int32)
    check_threads(lambda kind: sampler.sample(draws[kind], range(2), 3, speakers))


def test_torch_rounds_alike_in_threads_that_had_other_cores(tiny_run: Path) -> None:
    """torch keeps a number of cores for each thread, and it changes how convolutions round."""
    import torch

    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(torch.set_num_threads, 2).result()
            encode = TorchEngine(tiny_run, EngineOptions(threads=1), device="cpu").open("encoder")
            pool.submit(encode, np.zeros((1, 8, 8, 3), np.uint8)).result()
            assert pool.submit(torch.get_num_threads).result() == 1
        finally:
            pool.submit(torch.set_num_threads, before).result()
            torch.set_num_threads(before)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sessions that are made from here on; each takes long enough to be asked for again."""
    made: list[Any] = []
    real = onnxruntime.InferenceSession

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.02)
        made.append(real(*args, **options))
        return made[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", slow)
    return made


def test_streams_share_sessions(tiny_prior: Path, sessions: list[Any]) -> None:
    engine = OnnxRuntimeEngine(Bundle.open(tiny_prior / "bundle"), EngineOptions(threads=4))
    sampler = BatchSampler(engine, "pixelcnn", 16, 16, 4)
    drawn = sampler.sample(SamplingParams(), range(16), 4, labels=np.zeros(16, np.int32))
    assert len(sessions) == 2  # of `row` and `step`
    alone = OnnxRuntimeEngine(Bundle.open(tiny_prior / "bundle"), EngineOptions(threads=1))
    whole = BatchSampler(alone, "pixelcnn", 16, 16, 4)
    expected = whole.sample(SamplingParams(), range(16), 4, labels=np.zeros(16, np.int32))
    np.testing.assert_array_equal(drawn, expected)


def test_a_graph_that_is_opened_again_shares_its_session(
    tiny_bundle: Path, sessions: list[Any]
) -> None:
    engine = OnnxRuntimeEngine(Bundle.open(tiny_bundle))
    with ThreadPoolExecutor(THREADS) as pool:
        graphs = list(pool.map(engine.open, ["encoder"] * THREADS))
    ImageTokenizer(engine).graph("encoder")
    engine.bind("encoder", {"batch": 1, "h": 2, "w": 2})
    assert len(graphs) == THREADS
    assert len(sessions) == 1


def test_graphs_of_torch_share_their_module(tiny_prior: Path) -> None:
    engine = TorchEngine(tiny_prior, device="cpu")
    with ThreadPoolExecutor(THREADS) as pool:
        graphs = list(pool.map(engine._graph, ["priors/pixelcnn/step"] * THREADS))
    assert len({id(graph.module) for graph in graphs}) == 1
