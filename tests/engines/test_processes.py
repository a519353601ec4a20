"""What is used in one process and then goes to another: by pickle, copy, fork and spawn."""

import copy
import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from doubles import flip_byte
from numpy.typing import NDArray
from prior_doubles import K, exported_prior

from vqtrt.audio.sampler import ClipSampler
from vqtrt.engines.base import Engine
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.system import cores

IMAGES = np.random.default_rng(0).integers(256, size=(3, 16, 16, 3), dtype=np.uint8)


def encode(tokenizer: ImageTokenizer) -> NDArray[Any]:
    return tokenizer.encode(IMAGES)


def sample_images(sampler: BatchSampler) -> NDArray[Any]:
    return sampler.sample(SamplingParams(seed=3), range(8), 3, labels=np.zeros(8, np.int32))


def sample_clips(sampler: ClipSampler) -> NDArray[Any]:
    return sampler.sample(SamplingParams(seed=3), range(2), 20, np.zeros(2, np.int32))


@pytest.fixture(params=["onnxruntime", "torch"])
def engine(request: pytest.FixtureRequest, tiny_prior: Path) -> Engine:
    if request.param == "torch":
        return TorchEngine(tiny_prior, device="cpu")
    # Two threads: ONNX Runtime then has one of its own, which a fork does not copy.
    return OnnxRuntimeEngine(Bundle.open(tiny_prior / "bundle"), EngineOptions(threads=2))


def used(engine: Engine) -> list[tuple[Any, Callable[[Any], NDArray[Any]], NDArray[Any]]]:
    """What a user holds, what is done with it, and what that has given."""
    held: list[tuple[Any, Callable[[Any], NDArray[Any]]]] = [
        (ImageTokenizer(engine), encode),
        (BatchSampler(engine, "pixelcnn", 16, 8, 4), sample_images),
        (engine.open("encoder"), lambda graph: graph(IMAGES)),
    ]
    if engine.name == "onnxruntime":
        clips = OnnxRuntimeEngine(Bundle.open(exported_prior()), EngineOptions(threads=2))
        held.append((ClipSampler(clips.bind_steps, "wavenet", K, 2), sample_clips))
    return [(each, work, work(each)) for each, work in held]


def test_pickles_and_copies(engine: Engine) -> None:
    for each, work, expected in used(engine):
        for other in (pickle.loads(pickle.dumps(each)), copy.deepcopy(each)):  # noqa: S301
            np.testing.assert_array_equal(work(other), expected)
        np.testing.assert_array_equal(work(each), expected)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process(engine: Engine) -> None:
    held = used(engine)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # it would hang
        wrong = 1
        try:
            wrong = sum(not np.array_equal(work(each), was) for each, work, was in held)
            held.clear()
            del engine
            gc.collect()  # sessions of the parent must not be destroyed, which would hang too
        finally:
            os._exit(wrong)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for each, work, was in held:
        np.testing.assert_array_equal(work(each), was)


def test_torch_has_one_core_after_a_fork(tiny_run: Path) -> None:
    """OpenMP's threads are not copied by a fork, and torch would wait for them forever."""
    script = f"""
        import os, signal, sys
        import numpy as np, torch
        from pathlib import Path
        from vqtrt.engines.torch import TorchEngine

        torch.set_num_threads(2)
        run, images = Path({str(tiny_run)!r}), np.zeros((64, 32, 32, 3), np.uint8)
        encode = TorchEngine(run, device="cpu").open("encoder")
        codes = encode(images)
        child = os.fork()
        if not child:
            signal.alarm(60)
            fresh = TorchEngine(run, device="cpu").open("encoder")
            same = all(np.array_equal(each(images), codes) for each in (encode, fresh))
            os._exit(0 if same and torch.get_num_threads() == 1 else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    assert subprocess.run(command, env=environment, check=False).returncode == 0


def test_a_forked_process_ends(tiny_bundle: Path) -> None:
    """Telemetry of ONNX Runtime 1.32 hangs in its destructors, which `os._exit` does not run."""
    script = f"""
        import os, signal, sys
        from pathlib import Path
        from vqtrt.formats.bundle import Bundle
        from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
        from vqtrt.engines.options import EngineOptions
        import numpy as np

        bundle = Bundle.open(Path({str(tiny_bundle)!r}))
        engine = OnnxRuntimeEngine(bundle, EngineOptions(threads=2))
        encode, images = engine.open("encoder"), np.zeros((1, 16, 16, 3), np.uint8)
        codes = encode(images)
        child = os.fork()
        if not child:
            signal.alarm(60)
            sys.exit(not np.array_equal(encode(images), codes))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    assert subprocess.run(command, env=environment, check=False).returncode == 0


def test_a_spawned_process(tiny_prior: Path) -> None:
    tokenizers = [
        ImageTokenizer(OnnxRuntimeEngine(Bundle.open(tiny_prior / "bundle"))),
        ImageTokenizer(TorchEngine(tiny_prior, device="cpu")),
    ]
    expected = [encode(each) for each in tokenizers]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for tokenizer, codes in zip(tokenizers, expected, strict=True):
            np.testing.assert_array_equal(pool.apply(tokenizer.encode, (IMAGES,)), codes)


def test_in_another_folder(
    tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_prior)
    engines = [
        OnnxRuntimeEngine(Bundle.open(Path("bundle"))),
        TorchEngine(Path(), device="cpu"),
    ]
    pickles = [pickle.dumps(engine) for engine in engines]
    monkeypatch.chdir(tmp_path)
    one, other = (pickle.loads(each).open("encoder")(IMAGES) for each in pickles)  # noqa: S301
    np.testing.assert_array_equal(one, other)


def test_what_is_opened_again_is_checked(tiny_prior: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_prior, tmp_path / "run")
    tokenizers = [
        ImageTokenizer(OnnxRuntimeEngine(Bundle.open(run / "bundle"))),
        ImageTokenizer(TorchEngine(run, device="cpu")),
    ]
    for tokenizer in tokenizers:
        encode(tokenizer)
    flip_byte(run / "bundle" / "encoder.onnx", 100)
    flip_byte(run / "model.safetensors", -1)
    reasons = [r"encoder\.onnx is damaged", "was trained meanwhile"]
    for tokenizer, reason in zip(tokenizers, reasons, strict=True):
        encode(tokenizer)  # what is open is not read again
        with pytest.raises(VqtrtError, match=reason):
            encode(copy.deepcopy(tokenizer))


def test_the_process_that_unpickles_counts_its_own_cores(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = onnxruntime.InferenceSession

    def session(content: bytes, options: Any, **others: Any) -> Any:
        seen.append(options.intra_op_num_threads)
        return real(content, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv(cores._VARIABLE, "64")
    engine = OnnxRuntimeEngine(Bundle.open(tiny_bundle))
    engine.open("encoder")
    content = pickle.dumps(engine)
    monkeypatch.setenv(cores._VARIABLE, "2")
    other = pickle.loads(content)  # noqa: S301
    other.open("encoder")
    assert (engine.num_streams, other.num_streams) == (64, 2)
    assert seen == [0, 2]  # 0: ONNX Runtime's own choice
