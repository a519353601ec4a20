import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vqtrt.engines.options import EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, file_sha256


@pytest.fixture
def engine(tiny_run):
    return TorchEngine(tiny_run, device="cpu")


def test_facts_are_those_of_the_bundle(engine, tiny_run, tiny_bundle):
    info = Bundle.open(tiny_bundle).info
    assert engine.name == "torch"
    assert engine.info == info.model
    assert engine.preprocessing == info.preprocessing
    assert engine.weights_sha256 == file_sha256(tiny_run / "model.safetensors")


def test_graphs_are_the_models(engine):
    images = np.random.default_rng(0).integers(256, size=(3, 8, 12, 3), dtype=np.uint8)
    codes = engine.open("encoder")(images)
    assert (codes.dtype, codes.shape) == (np.int32, (3, 2, 3))
    with torch.inference_mode():
        expected = engine.encoder()(torch.from_numpy(images))
    np.testing.assert_array_equal(codes, expected)
    decoded = engine.open("decoder")(codes)
    assert (decoded.dtype, decoded.shape) == (np.uint8, (3, 8, 12, 3))


def test_arrays_that_cannot_be_written_to(engine):
    images = np.zeros((1, 8, 8, 3), np.uint8)
    images.flags.writeable = False
    assert engine.open("encoder")(images).shape == (1, 2, 2)


def test_threads(tiny_run):
    before = torch.get_num_threads()
    try:
        TorchEngine(tiny_run, EngineOptions(threads=1), device="cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("cores", "expected"), [("2", 2), ("64", 3)])
def test_a_quota_bounds_the_threads(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, cores: str, expected: int
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv("PYTHON_CPU_COUNT", cores)
    try:
        torch.set_num_threads(3)
        TorchEngine(tiny_run, device="cpu")
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_no_such_graph(engine):
    with pytest.raises(VqtrtError, match="no graph 'prior'"):
        engine.open("prior")
