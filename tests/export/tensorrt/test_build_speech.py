"""Every graph of a model of speech compiles, in every precision."""

from typing import Any

import pytest
import speech_runs
import torch
from speech_runs import CONV, FRONT, WAVENET

from vqtrt.audio.chunks import chunk_codes
from vqtrt.config.audio import SpeechConfig, WaveNetConfig
from vqtrt.config.images import load_speech_config
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.errors import VqtrtError
from vqtrt.export.audio import speech_graphs
from vqtrt.export.audio_prior import wavenet_prior_graphs
from vqtrt.export.graph_writer import GraphWriter
from vqtrt.export.tensorrt.build import Options, build_engines, check_precision
from vqtrt.export.tensorrt.profiles import graph_profile
from vqtrt.export.tensorrt.report import Layer
from vqtrt.formats.bundle import Bundle, BundleInfo, GraphSpec, PriorInfo, Source, TensorSpec
from vqtrt.formats.precision import PRECISIONS
from vqtrt.models.audio import SpeechVQVAE
from vqtrt.models.info import speech_info
from vqtrt.priors.wavenet import WaveNetPrior
from vqtrt.priors.wavenet_graphs import wavenet_graph

pytest.importorskip("tensorrt_rtx", reason='compiling needs pip install "vqtrt[rtx]"')


def bundled(folder, model: SpeechVQVAE, config: SpeechConfig, graphs, priors=None) -> Bundle:
    """A bundle around graphs that are written already."""
    facts, speech = speech_info(model, config)
    info = BundleInfo(
        kind="speech",
        vqtrt_version="0",
        model=facts,
        speech=speech,
        graphs=graphs,
        priors=priors or {},
        opset=20,
        source=Source(run="", weights_sha256="", recipe=config.recipe),
    )
    Bundle.write_info(folder, info)
    return Bundle.open(folder)


def compiled(bundle, precisions=PRECISIONS) -> dict[str, dict]:
    """What `build_engines` says."""
    return build_engines(bundle, Options(trt_package.load("tensorrt-rtx")), precisions)


MODELS: dict[str, Any] = {
    "conv": {"decoder": CONV},
    "wavenet": {"decoder": WAVENET | {"layers": 2}} | FRONT,
}
NAMES = {"conv": ["encoder", "decoder"], "wavenet": ["encoder", "conditioning", "step"]}


def in_all_precisions(names):
    return [name if p == "fp32" else f"{p}/{name}" for p in PRECISIONS for name in names]


@pytest.mark.parametrize("kind", MODELS)
def test_tiny_models_compile(kind, tmp_path):
    model, config = speech_runs.model(**MODELS[kind]), speech_runs.config(**MODELS[kind])
    writer = GraphWriter(tmp_path)
    for precision in PRECISIONS:
        speech_graphs(model, writer, precision)
    made = compiled(bundled(tmp_path, model, config, writer.graphs))
    assert list(made) == in_all_precisions(NAMES[kind])
    assert all(result["built"] and result["bytes"] > 1000 for result in made.values())


def a_prior(**settings):
    """A prior of random weights, and its facts."""
    prior = WaveNetPrior(WaveNetConfig(**settings)).eval().requires_grad_(False)
    return prior, PriorInfo(
        kind="wavenet",
        codebook_size=prior.config.codebook_size,
        num_codebooks=1,
        width=20,
        receptive_field=prior.config.receptive_field,
        weights_sha256="",
        tokenizer_sha256="",
    )


def test_a_tiny_prior_compiles(tmp_path):
    prior, facts = a_prior(layers=2, cycles=1, channels=8, codebook_size=16, num_classes=2)
    writer = GraphWriter(tmp_path)
    for precision in PRECISIONS:
        wavenet_prior_graphs(prior, "wavenet", writer, precision)
    config = speech_runs.config()
    bundle = bundled(tmp_path, speech_runs.model(), config, writer.graphs, {"wavenet": facts})
    names = [f"priors/wavenet/{part}" for part in ("step", "step_filtered", "logits")]
    assert list(compiled(bundle)) == in_all_precisions(names)


def test_a_prior_of_a_large_codebook_compiles(tmp_path):
    """TensorRT sorts no more than 3,840 numbers, so top-k and top-p must not sort more."""
    prior, facts = a_prior(layers=1, cycles=1, channels=4, head=4, codebook_size=8192)
    writer, name = GraphWriter(tmp_path), "priors/wavenet/step_filtered"
    writer.write(name, wavenet_graph(prior, "step_filtered"), {"batch": 3})
    config = speech_runs.config()
    bundle = bundled(tmp_path, speech_runs.model(), config, writer.graphs, {"wavenet": facts})
    assert compiled(bundle, ["fp32"])[name]["built"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["digits", "digits-conv"])
def test_digits_compiles_at_full_size(recipe, tmp_path):
    config = load_speech_config(recipe)
    torch.manual_seed(0)
    model = SpeechVQVAE(config.model, config.data.preprocessing.sample_rate).eval()
    writer = GraphWriter(tmp_path)
    speech_graphs(model.requires_grad_(False), writer)
    made = compiled(bundled(tmp_path, model, config, writer.graphs), ["fp32"])
    assert list(made) == list(writer.graphs)


def test_shapes_of_a_profile(tmp_path):
    config, (_, prior) = speech_runs.config(), a_prior(layers=2, cycles=1, codebook_size=16)
    audio = TensorSpec(name="audio", dtype="float32", shape=("batch", "16*t"))
    codes = TensorSpec(name="codes", dtype="int32", shape=("batch", "t"))
    kept = TensorSpec(name="cache0", dtype="float32", shape=("batch", 8), delay=4)
    tables = {"encoder": audio, "decoder": codes, "priors/p/logits": codes, "priors/p/step": kept}
    graphs = {
        name: GraphSpec(file="x", sha256="0" * 64, inputs=(table,), outputs=())
        for name, table in tables.items()
    }
    bundle = bundled(tmp_path, speech_runs.model(), config, graphs, {"p": prior})
    profiles = {
        name: next(iter(graph_profile(bundle, name, "fp32", (1, 2, 3)).values())) for name in graphs
    }
    speech = bundle.info.speech
    chunks = [chunk_codes(16, n) for n in (speech.context, speech.decoder_context)]
    assert speech.context != speech.decoder_context
    assert profiles["encoder"] == ((1, 16), (2, 16000), (3, 16 * chunks[0]))
    assert profiles["decoder"] == ((1, 1), (2, 1000), (3, chunks[1]))
    # A crop of 1,024 codes, and 3 before it; lengths are rounded.
    assert profiles["priors/p/logits"] == ((1, 1), (2, 1000), (3, 1152))
    assert profiles["priors/p/step"] == ((1, 8), (2, 8), (3, 8))
    with pytest.raises(VqtrtError, match="--size is of pictures"):
        graph_profile(bundle, "encoder", "fp32", (1, 2, 3), [(16, 16)] * 3)


def conv(name, source, kind, target):
    return Layer(name, "CONVOLUTION", ((source, kind),), ((target, kind),))


def test_what_makes_a_spectrum_may_be_float32():
    waves = conv("waves", "audio", "float32", "a")
    filters = conv("filters", "a", "float32", "b")
    half = Layer("cast", "CAST", (("b", "float32"),), (("c", "float16"),))
    body = conv("body", "c", "float16", "d")
    check_precision([waves, filters, half, body], "fp16", spectrum=True)
    with pytest.raises(VqtrtError, match="2 of its 3 products"):
        check_precision([waves, filters, half, body], "fp16")
    third = conv("third", "b", "float32", "b2")
    with pytest.raises(VqtrtError, match="third is float32"):
        check_precision([waves, filters, third, half, body], "fp16", spectrum=True)
    back = Layer("back", "CAST", (("d", "float16"),), (("e", "float32"),))
    late = conv("late", "e", "float32", "f")
    with pytest.raises(VqtrtError, match="late is float32"):
        check_precision([waves, half, body, back, late], "fp16", spectrum=True)
    with pytest.raises(VqtrtError, match="no convolution"):
        check_precision([half], "fp16", spectrum=True)
