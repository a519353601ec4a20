"""Fixtures that many test files share: tiny runs and bundles, made once a session."""

import math
import os
from pathlib import Path

import pytest

from vqtrt.artefacts import find_model
from vqtrt.config import Config, parse_config
from vqtrt.export.run import export_bundle
from vqtrt.training.loop import train

# Tests that need no GPU do not meet one: what they compare bit for bit, the CPU repeats.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")


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

    def reported(self, figures):
        self.calls.append(("reported", figures))

    def evaluated(self, step, figures, picture):
        self.calls.append(("evaluated", step, figures, picture))

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
    return parse_config(settings, "tiny")


@pytest.fixture
def make_config():
    """`tiny_config`, for tests that train with other settings."""
    return tiny_config


@pytest.fixture
def make_log():
    """A watcher that keeps its calls, and interrupts in step `stop_at`."""
    return Log


def _run(tmp_path_factory, name: str, **quantizer) -> Path:
    path: Path = tmp_path_factory.mktemp("runs") / name
    train(tiny_config(**quantizer), path, Log())
    export_bundle(find_model(path))
    return path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A trained run with a bundle in it. Shared: copy it before you change it."""
    return _run(tmp_path_factory, "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run) -> Path:
    """The bundle of `tiny_run`. Shared: copy it before you change it."""
    return tiny_run / "bundle"


@pytest.fixture(scope="session")
def tiny_run2(tmp_path_factory) -> Path:
    """As `tiny_run`, with two codebooks, exported too."""
    return _run(tmp_path_factory, "tiny2", num_codebooks=2)


@pytest.fixture(scope="session")
def tiny_bundle2(tiny_run2) -> Path:
    """The bundle of `tiny_run2`."""
    return tiny_run2 / "bundle"
