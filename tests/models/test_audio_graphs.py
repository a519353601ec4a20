from typing import Any

import pytest
import speech_runs
import torch
from speech_runs import CONV, FRONT, STRIDE, WAVENET
from torch.nn import functional as F

from vqtrt.models.audio import SpeechVQVAE
from vqtrt.models.audio_graphs import (
    ConditioningGraph,
    ConvDecoderGraph,
    SpeechEncoderGraph,
    speech_graph,
    speech_graph_names,
)

K, S = 16, 2
MODELS: dict[str, Any] = {"conv": {"decoder": CONV}, "wavenet": {"decoder": WAVENET} | FRONT}


@pytest.fixture(params=MODELS)
def model(request) -> SpeechVQVAE:
    return speech_runs.model(**MODELS[request.param])


def audio(*lengths):
    longest = max(lengths)
    made = [torch.from_numpy(clip) for clip in speech_runs.recordings(lengths)]
    return torch.stack([F.pad(clip, (0, longest - len(clip))) for clip in made])


def codes(*shape):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(K, shape, generator=generator, dtype=torch.int32)


def test_the_encoder_gives_the_quantizers_codes(model):
    clips = audio(20 * STRIDE, 20 * STRIDE)
    found = SpeechEncoderGraph(model)(clips)
    z = model.encoder(clips)
    assert (found.dtype, found.shape) == (torch.int32, (2, 20))
    assert torch.equal(found.long(), model.quantizer.encode(z[:, :, None])[:, 0, :, 0])
    assert len(found.unique()) > 4
    assert torch.equal(SpeechEncoderGraph(model).vectors(clips), z.transpose(1, 2))


def test_codes_of_chunks_and_of_padded_clips_are_those_of_the_whole(model):
    encode, around = SpeechEncoderGraph(model), model.encoder.context
    clips = audio(40 * STRIDE, 13 * STRIDE)
    whole = encode(clips)
    assert torch.equal(encode(clips[1:, : 13 * STRIDE]), whole[1:, :13])
    part = encode(clips[:1, (12 - around) * STRIDE : (22 + around) * STRIDE])
    assert torch.equal(part[:, around:-around], whole[:1, 12:22])


def decoders(model):
    """What makes an array (N, steps, …) of codes, and how many steps a code is."""
    if "decoder" in speech_graph_names(model):
        return ConvDecoderGraph(model), STRIDE
    graph = ConditioningGraph(model)
    return lambda *given: graph(*given).transpose(0, 1), STRIDE // WAVENET["hop"]


def test_what_decoders_make_of_chunks_and_of_padded_clips(model):
    decode, a_code = decoders(model)
    around = model.decoder_context
    given, speakers = codes(3, 30), torch.tensor([0, 1, S], dtype=torch.int32)
    given[1, 11:] = K
    whole = decode(given, speakers)
    assert whole.shape[:2] == (3, 30 * a_code)
    alone = decode(given[1:2, :11], speakers[1:2])
    torch.testing.assert_close(alone, whole[1:2, : 11 * a_code], rtol=0, atol=1e-5)
    part = decode(given[:1, 10 - around : 20 + around], speakers[:1])
    part = part[:, around * a_code : -around * a_code]
    torch.testing.assert_close(part, whole[:1, 10 * a_code : 20 * a_code], rtol=0, atol=1e-5)
    # One code of context less is not enough.
    less = around - 1
    part = decode(given[:1, 10 - less : 20 + less], speakers[:1])[:, less * a_code :]
    assert (part[:, : 10 * a_code] - whole[:1, 10 * a_code : 20 * a_code]).abs().max() > 1e-4


def test_speakers_sound_different(model):
    decode, _ = decoders(model)
    given = codes(1, 12).expand(3, 12)
    made = decode(given, torch.tensor([0, 1, S], dtype=torch.int32))
    assert all((made[i] - made[j]).abs().max() > 1e-3 for i, j in ((0, 1), (1, 2), (0, 2)))


def test_the_conv_decoder_is_that_of_training():
    model = speech_runs.model(**MODELS["conv"]).double()
    model.decoder.layers[-1].weight.mul_(20)
    given, speakers = codes(2, 9), torch.tensor([1, 0])
    around = model.decoder_context
    padded = F.pad(given, (around, around), value=0).long()
    inside = F.pad(torch.ones(2, 9, dtype=torch.bool), (around, around))
    vectors = model.quantizer.lookup(padded[:, None, :, None])[:, :, 0] * inside[:, None]
    hidden = model.conditioner(vectors, speakers)
    cut = around * STRIDE
    expected = model.decoder(hidden)[:, cut:-cut].clamp(-1, 1)
    made = ConvDecoderGraph(model, torch.float64)(given, speakers)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected.float())
    assert (made.abs() == 1).any()
    assert (made.abs() < 1).any()


def test_conditioning_and_step_give_the_logits_of_training():
    model = speech_runs.model(**MODELS["wavenet"])
    settings = model.config.decoder
    t = 6
    given, speakers = codes(2, t), torch.tensor([1, S], dtype=torch.int32)
    biases = ConditioningGraph(model)(given, speakers)
    step = speech_graph(model, "step")
    queues = [[torch.zeros(c.resolve({"batch": 2}))] * c.delay for c in step.caches]
    levels, logits = [], []
    previous = torch.full((2,), 256, dtype=torch.int32)
    uniform = torch.rand(2, t * STRIDE, generator=torch.Generator().manual_seed(0))
    for start in range(0, t * STRIDE, settings.unroll):
        inputs = {
            "previous": previous,
            "bias": biases[start // settings.hop],
            "noise": uniform[:, start : start + settings.unroll],
            "temperature": torch.ones(1),
        }
        assert set(inputs) == {tensor.name for tensor in step.inputs}
        made, kept = step.call(inputs, [queue[0] for queue in queues])
        queues = [[*queue[1:], new] for queue, new in zip(queues, kept, strict=True)]
        levels.append(made["levels"])
        logits.append(made["logits"])
        previous = made["levels"][:, -1]
    drawn = torch.cat(levels, 1).long()
    around = model.decoder_context
    vectors = F.pad(model.quantizer.codebook[0][given.long()].transpose(1, 2), (around, around))
    hidden = model.conditioner(vectors, speakers)[:, :, around:-around]
    full = model.decoder(hidden, drawn)[:, settings.unroll - 1 :: settings.unroll]
    assert (torch.stack(logits, 1) - full).abs().max() < 1e-4
    assert len(drawn.unique()) > 50


def test_tables():
    conv, wavenet = (speech_runs.model(**settings) for settings in MODELS.values())
    assert speech_graph_names(conv) == ("encoder", "decoder")
    assert speech_graph_names(wavenet) == ("encoder", "conditioning", "step")
    encoder, decoder = (speech_graph(conv, name) for name in ("encoder", "decoder"))
    assert [t.shape for t in (*encoder.inputs, *encoder.outputs)] == [
        ("batch", "16*t"),
        ("batch", "t"),
    ]
    assert [(t.name, t.dtype) for t in decoder.inputs] == [
        ("codes", "int32"),
        ("speakers", "int32"),
    ]
    assert decoder.outputs == encoder.inputs
    conditioning = speech_graph(wavenet, "conditioning")
    assert conditioning.inputs == decoder.inputs
    assert conditioning.outputs[0].shape == ("2*t", "batch", 6 * 2 * 8)
    step = speech_graph(wavenet, "step")
    assert [t.name for t in step.inputs] == ["previous", "bias", "noise", "temperature"]
    assert step.inputs[1].shape == ("batch", 96)
    assert [t.shape for t in step.outputs] == [("batch", 2), ("batch", 256)]
    assert [cache.delay for cache in step.caches] == [1, 1, 2] * 2
    with pytest.raises(ValueError, match="no graph 'step'"):
        speech_graph(conv, "step")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(model, dtype):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    encoder = SpeechEncoderGraph(model, dtype)
    assert {p.dtype for p in encoder.encoder.layers.parameters()} == {dtype}
    assert {p.dtype for p in encoder.encoder.last.parameters()} == {torch.float32}
    assert {each.dtype for each in encoder.quantizer.buffers()} == {torch.float32}
    clips = audio(30 * STRIDE)
    assert encoder.vectors(clips).dtype == torch.float32
    assert (encoder(clips) == SpeechEncoderGraph(model)(clips)).double().mean() > 0.8
    name = speech_graph_names(model)[1]
    given = {"codes": codes(2, 9), "speakers": torch.tensor([0, S], dtype=torch.int32)}
    (half, _), (full, _) = (
        speech_graph(model, name, d).call(given) for d in (dtype, torch.float32)
    )
    (one,), (other,) = half.values(), full.values()
    assert one.dtype == torch.float32
    assert 0 < (one - other).abs().max() < 0.05 * other.abs().max()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
