"""Fixtures that many test files share: tiny runs and bundles, made once a session."""

import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from shared_runs import share_below, shared
from speech_doubles import WAVENET

from vqtrt.config.audio import SpeechConfig
from vqtrt.config.images import Config
from vqtrt.config.location import find_model
from vqtrt.config.settings import parse_settings
from vqtrt.data.audio.decode import write_wav
from vqtrt.export.run import export_bundle
from vqtrt.training.audio import train_speech
from vqtrt.training.image_prior import train_prior
from vqtrt.training.images import train
from vqtrt.training.prior_start import plan_prior, train_planned

# Tests that need no GPU do not meet one: what they compare bit for bit, the CPU repeats.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")


FIRST = (
    "docs/test_README.py",  # which others in docs wait for
    "docs/test_speech.py",
    "export/test_tensorrt_recipes.py",
    "export/test_tensorrt.py",
    "export/test_tensorrt_report.py",
    "export/test_tensorrt_speech.py",
)
"""Files that take longest: begun first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(FIRST)))


@pytest.fixture(scope="session", autouse=True)
def _shared_runs(tmp_path_factory) -> None:
    share_below(tmp_path_factory)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory) -> None:
    """What tests build is trusted in tests only."""
    os.environ["VQTRT_STATE"] = str(tmp_path_factory.getbasetemp() / "state")


class Log:
    """A watcher that keeps what it is told; raises in step `stop_at`, if that is given."""

    def __init__(self, stop_at=math.inf):
        self.stop_at = stop_at
        self.calls = []

    def started(self, step, steps):
        self.calls.append(("started", step, steps))

    def advanced(self, step):
        self.calls.append(("advanced", step))
        if step >= self.stop_at:
            raise KeyboardInterrupt

    def reported(self, step, figures):
        self.calls.append(("reported", step, figures))

    def evaluated(self, step, figures, picture):
        self.calls.append(("evaluated", step, figures, picture))

    def noted(self, text):
        self.calls.append(("noted", text))

    def named(self, name):
        return [call[1:] for call in self.calls if call[0] == name]


def tiny_config(**quantizer) -> Config:
    """16x16 pictures of `shapes:200` to 4x4 codes of 16; 20 steps in a second or so.

    In so few steps a slow codebook would collapse to one entry, and all codes be equal.
    """
    settings = {
        "recipe": "tiny",
        "model": {
            "hidden": 16,
            "residual_blocks": 1,
            "residual_hidden": 8,
            "quantizer": {"codebook_size": 16, "dim": 8, "decay": 0.5, "restart_below": 0.3}
            | quantizer,
        },
        "data": {
            "path": "shapes:200",
            "holdout": 8,
            "workers": 1,
            "preprocessing": {"height": 16, "width": 16},
        },
        "train": {
            "steps": 20,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "log_every": 5,
            "evaluate_every": 10,
            "checkpoint_every": 10,
        },
    }
    return parse_settings(Config, settings, "tiny")


@pytest.fixture
def make_config():
    """`tiny_config`, for tests that train with other settings."""
    return tiny_config


@pytest.fixture
def make_log():
    """A watcher that keeps its calls, and interrupts in step `stop_at`."""
    return Log


def _run(name: str, **quantizer) -> Path:
    def make(path: Path) -> None:
        train(tiny_config(**quantizer), path, Log())
        export_bundle(find_model(path))

    return shared(f"runs/{name}", make)


@pytest.fixture(scope="session")
def tiny_run() -> Path:
    """A trained run with a bundle in it. Shared: copy it before you change it."""
    return _run("tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run) -> Path:
    """The bundle of `tiny_run`. Shared: copy it before you change it."""
    return tiny_run / "bundle"


@pytest.fixture(scope="session")
def tiny_run2() -> Path:
    """As `tiny_run`, with two codebooks, exported too."""
    return _run("tiny2", num_codebooks=2)


@pytest.fixture(scope="session")
def tiny_bundle2(tiny_run2) -> Path:
    """The bundle of `tiny_run2`."""
    return tiny_run2 / "bundle"


TINY_PRIOR = (
    "prior.layers=4",
    "prior.channels=8",
    "prior.head=16",
    "prior.first_kernel=3",
    "data.holdout=16",
    "train.steps=20",
    "train.batch_size=16",
    "train.learning_rate=0.01",
    "train.warmup_steps=0",
    "train.log_every=5",
    "train.evaluate_every=10",
    "train.checkpoint_every=10",
)


def train_tiny_prior(
    run: Path, name: str = "pixelcnn", *overrides: str, watcher=None, resume=False
):
    """A prior of 4 layers on the codes of 200 pictures of shapes, in a second or so."""
    settings = ["data.path=shapes:200", *TINY_PRIOR, *overrides]
    model = find_model(run)
    planned = plan_prior(model, "pixelcnn", name, settings, workers=1, resume=resume)
    config, path, codes, tokenizer, codebooks = planned
    log = watcher or Log()
    return train_prior(config, path, codes, tokenizer, codebooks, log, resume=resume)


@pytest.fixture
def make_prior():
    """`train_tiny_prior`."""
    return train_tiny_prior


def _copy_run(run: Path, path: Path, *left_out: str) -> None:
    """Without what training alone needs, nor `left_out`."""
    shutil.copytree(
        run, path, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", *left_out)
    )


@pytest.fixture(scope="session")
def tiny_prior(tiny_run) -> Path:
    """A copy of `tiny_run` with the prior `pixelcnn`, exported. Shared, too."""

    def make(path: Path) -> None:
        _copy_run(tiny_run, path)
        train_tiny_prior(path)
        export_bundle(find_model(path))

    return shared("priors/tiny", make)


@pytest.fixture(scope="session")
def half_run(tiny_prior) -> Path:
    """A copy of `tiny_prior` whose bundle has the graphs of all precisions. Shared, too."""

    def make(path: Path) -> None:
        shutil.copytree(tiny_prior, path)
        export_bundle(find_model(path), precisions=("fp16", "bf16"))

    return shared("half/tiny", make)


@pytest.fixture(scope="session")
def tiny_prior2(tiny_run2) -> Path:
    """The same of `tiny_run2`, without labels, and without a bundle."""

    def make(path: Path) -> None:
        _copy_run(tiny_run2, path, "bundle")  # which would know nothing of the prior
        overrides = ("data.conditional=false", "prior.first_kernel=5")
        train_tiny_prior(path, "pixelcnn", *overrides)

    return shared("priors/tiny2", make)


@pytest.fixture(scope="session")
def tiny_prior_bundle2(tiny_prior2) -> Path:
    """The bundle of `tiny_prior2`. Shared, too."""
    return shared("bundles/tiny2", lambda path: export_bundle(find_model(tiny_prior2), path))


def write_speech(folder: Path, count: int = 24) -> Path:
    """Recordings of the speakers ann and bob at 8 kHz, 0.1 to 0.3 s: tones that go up or down.

    Each is loud and quiet in turn, which a model learns to tell apart in a few steps.
    """
    rng = np.random.default_rng(0)
    for number in range(count):
        time = np.arange(int(rng.integers(800, 2400))) / 8000
        start, end = rng.uniform(100, 300, 2) * (1 + number % 2)
        phase = 2 * np.pi * (start * time + (end - start) * time**2 / 2 / time[-1])
        loudness = np.where(np.sin(2 * np.pi * 10 * time) > 0, 0.3, 0.01)
        audio = loudness * np.sin(phase) + 0.003 * rng.normal(size=len(time))
        write_wav(folder / ("ann", "bob")[number % 2] / f"{number:03}.wav", audio, 8000)
    return folder


def tiny_speech_config(data: Path, **model) -> SpeechConfig:
    """8 kHz to 16 codes of 32 samples, with a conv decoder; 20 steps in a second or so.

    In so few steps codes learn something from a spectrum alone.
    """
    settings = {
        "recipe": "tiny-speech",
        "model": {
            "hidden": 12,
            "front": {"n_fft": 64, "hop": 16, "bands": 12},
            "strides": [2],
            "target": {"n_fft": 64, "hop": 16, "bands": 12},
            "target_weight": 4.0,
            "target_steps": 10,
            "target_only": True,
            "residual_blocks": 1,
            "residual_hidden": 8,
            "speaker_dim": 4,
            "decoder": {"kind": "conv", "stem_hidden": 4, "blocks": 1, "stft_sizes": [64, 128]},
            "quantizer": {"codebook_size": 16, "dim": 6, "decay": 0.9},
        }
        | model,
        "data": {
            "path": str(data),
            "preprocessing": {"sample_rate": 8000},
            "crop": 512,
            "holdout": 4,
            "workers": 1,
        },
        "train": {
            "steps": 20,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "log_every": 5,
            "evaluate_every": 10,
            "checkpoint_every": 10,
        },
    }
    return parse_settings(SpeechConfig, settings, "tiny-speech")


@pytest.fixture
def make_speech_config():
    """`tiny_speech_config`, for tests that train with other settings."""
    return tiny_speech_config


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of `write_speech`. Shared: copy it before you change it."""
    return shared("recordings", write_speech)


def _speech_run(name: str, data: Path, **model) -> Path:
    def make(path: Path) -> None:
        train_speech(tiny_speech_config(data, **model), path, Log())
        export_bundle(find_model(path))

    return shared(f"runs/{name}", make)


@pytest.fixture(scope="session")
def tiny_speech(speech_data) -> Path:
    """A trained run on speech with a conv decoder, and a bundle in it. Shared, too."""
    return _speech_run("tiny-speech", speech_data)


@pytest.fixture(scope="session")
def tiny_wavenet(speech_data) -> Path:
    """The same with a WaveNet decoder."""
    return _speech_run("tiny-wavenet", speech_data, **WAVENET)


TINY_WAVENET = (
    "prior.layers=4",
    "prior.channels=8",
    "prior.head=16",
    "data.holdout=3",
    "train.steps=20",
    "train.batch_size=8",
    "train.learning_rate=0.01",
    "train.warmup_steps=0",
    "train.log_every=5",
    "train.evaluate_every=10",
    "train.checkpoint_every=10",
)


def train_tiny_speech_prior(run: Path, name: str = "wavenet", *overrides: str, **options):
    """A prior of 4 layers on the codes of the run's own recordings, in a second or so."""
    resume, watcher = options.get("resume", False), options.get("watcher") or Log()
    settings = [*TINY_WAVENET, *overrides]
    planned = plan_prior(find_model(run), None, name, settings, workers=1, resume=resume)
    return train_planned(planned, watcher, resume=resume)


@pytest.fixture
def make_speech_prior():
    """`train_tiny_speech_prior`."""
    return train_tiny_speech_prior


@pytest.fixture(scope="session")
def tiny_speech_prior(tiny_speech) -> Path:
    """A copy of `tiny_speech` with the prior `wavenet`, without a bundle. Shared, too."""

    def make(path: Path) -> None:
        _copy_run(tiny_speech, path, "bundle")
        train_tiny_speech_prior(path)

    return shared("priors/tiny-speech", make)
