import pytest
import speech_runs
from doubles import FakeEngine

from vqtrt.bench.decode import bench_decode, bench_decode_model, bench_decode_recipe
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError

KEYS = {
    "samples_per_second",
    "real_time_factor",
    "decoder",
    "batch_size",
    "seconds",
    "sample_rate",
    "engine",
}
NAIVE = {"naive_samples_per_second", "naive_samples", "naive_agreement", "ratio"}


def check(figures):
    assert figures["samples_per_second"] > 0
    factor = figures["samples_per_second"] / figures["sample_rate"]
    assert figures["real_time_factor"] == pytest.approx(factor)


def test_a_wavenet_beside_the_naive_loop():
    calls = []
    figures = bench_decode_model(
        speech_runs.exported("wavenet"),
        EngineOptions("onnxruntime"),
        batch_size=3,
        seconds=0.05,
        repeat=2,
        progress=lambda *call: calls.append(call),
    )
    assert set(figures) == KEYS | NAIVE | {"unroll"}
    check(figures)
    ratio = figures["samples_per_second"] / figures["naive_samples_per_second"]
    assert figures["ratio"] == pytest.approx(ratio)
    # 25 codes of 16 samples.
    assert (figures["seconds"], figures["batch_size"], figures["unroll"]) == (0.05, 3, 2)
    assert figures["naive_agreement"] == 1
    assert figures["naive_samples"] >= 3
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_naive_loop_would_find_another_decoder():
    """Its agreement is measured, not taken for granted."""
    model = speech_runs.exported("wavenet")
    other = speech_runs.model(decoder=speech_runs.WAVENET, **speech_runs.FRONT)
    other.decoder.wavenet.out.weight.mul_(1.5)
    engine = open_engine(model, EngineOptions("onnxruntime"))
    figures = bench_decode(engine, other, batch_size=2, seconds=0.1, repeat=1)
    assert figures["naive_agreement"] < 1


def test_a_conv_decoder():
    model = speech_runs.exported("conv")
    figures = bench_decode_model(
        model, EngineOptions("onnxruntime"), batch_size=2, seconds=0.1, repeat=1
    )
    assert set(figures) == KEYS
    check(figures)
    assert figures["decoder"] == "conv"


def test_a_recipe_with_random_weights(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    settings = speech_runs.config(decoder=speech_runs.WAVENET, **speech_runs.FRONT)
    recipe.write_text(settings.to_yaml())
    figures = bench_decode_recipe(str(recipe), batch_size=2, seconds=0.02, repeat=1)
    assert set(figures) == KEYS | NAIVE | {"unroll", "recipe"}
    check(figures)
    assert (figures["recipe"], figures["engine"]) == (str(recipe), "onnxruntime")


@pytest.mark.parametrize("engine", ["torch", "tensorrt", "tensorrt-rtx"])
def test_an_engine_that_cannot_run_random_weights_is_refused(engine):
    with pytest.raises(VqtrtError, match=rf"--engine {engine}.*--model"):
        bench_decode_recipe("digits", EngineOptions(engine))


def test_the_engine_that_is_asked_for_runs(tmp_path, monkeypatch):
    from vqtrt.bench import decode

    asked = []
    open_engine = decode.open_engine

    def opened(model, options):
        asked.append(options)
        return open_engine(model, EngineOptions("onnxruntime"))

    monkeypatch.setattr(decode, "open_engine", opened)
    recipe = tmp_path / "tiny.yaml"
    settings = speech_runs.config(decoder=speech_runs.WAVENET, **speech_runs.FRONT)
    recipe.write_text(settings.to_yaml())
    options = EngineOptions("onnxruntime-cuda", device=1)
    bench_decode_recipe(str(recipe), options, batch_size=1, seconds=0.02, repeat=1)
    assert asked == [options]


def test_models_of_images_are_refused():
    with pytest.raises(VqtrtError, match="the model is of images"):
        bench_decode(FakeEngine())
    with pytest.raises(VqtrtError, match="is of images"):
        bench_decode_recipe("shapes")
