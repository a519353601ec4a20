from typing import Any

import pytest

from vqtrt.bench.sample import bench_random, bench_sample
from vqtrt.config.location import find_model
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions

KEYS = {
    "forward_passes",
    "seconds_per_batch",
    "forward_seconds",
    "naive_seconds",
    "naive_positions",
    "images_per_second",
    "shape",
    "batch_size",
    "engine",
}


def check(figures):
    ratio = figures["seconds_per_batch"] / figures["forward_seconds"]
    assert figures["forward_passes"] == pytest.approx(ratio)
    rate = figures["batch_size"] / figures["seconds_per_batch"]
    assert figures["images_per_second"] == pytest.approx(rate)
    assert figures["naive_seconds"] > 0


def test_a_prior_of_a_model(tiny_prior):
    calls = []
    figures = bench_sample(
        open_engine(find_model(tiny_prior), EngineOptions("onnxruntime")),
        "pixelcnn",
        shape=(4, 3),
        batch_size=2,
        repeat=2,
        progress=lambda *call: calls.append(call),
    )
    assert set(figures) == KEYS
    check(figures)
    assert figures["naive_positions"] == 12
    assert (figures["shape"], figures["batch_size"]) == ([4, 3], 2)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_two_codebooks_in_torch(tiny_prior2):
    engine = open_engine(find_model(tiny_prior2), EngineOptions("torch"))
    check(bench_sample(engine, "pixelcnn", shape=(2, 2), batch_size=1, repeat=1))


def test_random_weights():
    sizes: dict[str, Any] = {"layers": 2, "channels": 4, "codebook_size": 300}
    figures = bench_random((5, 4), batch_size=3, repeat=1, **sizes)
    assert set(figures) == KEYS | set(sizes)
    check(figures)
    assert sizes.items() <= figures.items()
    assert figures["engine"] == "onnxruntime"
