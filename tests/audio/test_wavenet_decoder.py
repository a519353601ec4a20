import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import speech_runs
import torch
from speech_runs import STRIDE, WAVENET
from step_graphs import step_bundle
from tensorrt_doubles import build, pretend

from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.audio.wavenet_decoder import WaveNetDecoder, _Stream, decoder_noise
from vqtrt.data.audio.mulaw import mulaw_decode, mulaw_encode
from vqtrt.engines.choose import open_engine
from vqtrt.engines.lengths import padded_batch
from vqtrt.engines.noise import noise
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle
from vqtrt.models.audio_graphs import ConditioningGraph
from vqtrt.models.runs import AudioRun
from vqtrt.models.sample import draw

LENGTHS = [9, 40, 3, 21, 40, 1, 17, 33, 12, 25, 8, 38, 2, 30, 15, 40]
SPEAKERS = [index % 3 for index in range(16)]
K = 16


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def engine(request):
    return open_engine(speech_runs.exported("wavenet"), EngineOptions(request.param))


@pytest.fixture(scope="module")
def runtime():
    return open_engine(speech_runs.exported("wavenet"), EngineOptions("onnxruntime"))


def codes(lengths=LENGTHS):
    rng = np.random.default_rng(1)
    return [rng.integers(0, K, length, np.uint8) for length in lengths]


def naive(clip, speaker, number, *, seed=0, temperature=1.0):
    """Audio by the full form in float32, a sample at a time."""
    model = AudioRun.open(speech_runs.exported("wavenet").run).load_model()
    total = len(clip) * STRIDE
    uniform = torch.from_numpy(decoder_noise(seed, range(number, number + 1), total))
    with torch.inference_mode():
        given = torch.from_numpy(clip.astype(np.int64))[None], torch.tensor([speaker])
        biases = ConditioningGraph(model)(*given).transpose(0, 1)
        levels = torch.full((1, total + 1), 256)
        for step in range(total):
            logits = model.decoder.wavenet(levels[:, :-1], biases, WAVENET["hop"])[:, step]
            heat = torch.tensor([temperature])
            levels[:, step + 1] = draw(logits, uniform[:, step], heat)
    return mulaw_decode(levels[0, 1:].numpy())


def test_audio_is_that_of_the_naive_loop(engine):
    clips = codes([5, 20, 12])
    found = WaveNetDecoder(engine).decode(clips, [1, 0, 2])
    for number, (clip, speaker) in enumerate(zip(clips, [1, 0, 2], strict=True)):
        assert (found[number].dtype, found[number].shape) == (np.float32, (len(clip) * STRIDE,))
        np.testing.assert_array_equal(found[number], naive(clip, speaker, number))
    assert len(np.unique(found[1])) > 50


def test_the_same_audio_at_any_batch(engine):
    clips = codes()
    expected = WaveNetDecoder(engine, batch_size=16).decode(clips, SPEAKERS)
    for size in (1, 4, 7):
        found = WaveNetDecoder(engine, batch_size=size).decode(clips, SPEAKERS)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    (alone,) = WaveNetDecoder(engine).decode(clips[3:4], SPEAKERS[3:4], numbers=[3])
    np.testing.assert_array_equal(alone, expected[3])


def test_an_engine_that_was_built_for_batches_up_to_a_size(runtime, monkeypatch, tmp_path):
    bundle = Bundle.open(speech_runs.copied("wavenet", tmp_path).bundle)
    pretend(monkeypatch)
    build(bundle, "tensorrt-rtx", {"batch": (1, 3), "t": (1, 60)}, graphs=["conditioning", "step"])
    compiled = TensorRTEngine(bundle, EngineOptions("tensorrt-rtx"))
    clips = codes([3, 9, 5, 7])
    expected = WaveNetDecoder(runtime).decode(clips, [0, 1, 2, 0])
    decoder = WaveNetDecoder(compiled, batch_size=16)
    assert decoder.batch_size == 3
    for one, other in zip(decoder.decode(clips, [0, 1, 2, 0]), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_clip_longer_than_a_chunk(runtime, monkeypatch):
    """Conditioning is computed in parts, and the noise is taken in parts."""
    clips, speakers = codes([40, 11]), [0, 2]
    expected = WaveNetDecoder(runtime).decode(clips, speakers)
    monkeypatch.setattr("vqtrt.audio.wavenet_decoder._FRAMES", 6)
    found = WaveNetDecoder(runtime).decode(clips, speakers)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(expected[1], naive(clips[1], 2, 1))


def test_lengths_in_samples(runtime):
    clips = codes([6, 9])
    whole = WaveNetDecoder(runtime).decode(clips, [0, 1])
    found = WaveNetDecoder(runtime).decode(clips, [0, 1], samples=[81, 7])
    assert [len(audio) for audio in found] == [81, 7]
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_array_equal(one, other[: len(one)])
    with pytest.raises(ValueError, match="97 samples of 96"):
        WaveNetDecoder(runtime).decode(clips, [0, 1], samples=[97, 7])
    with pytest.raises(ValueError, match="1 speakers"):
        WaveNetDecoder(runtime).decode(clips, [0])


def test_seeds_temperature_and_speakers(runtime):
    clips = codes([8])

    def decode(speaker=0, **how):
        return WaveNetDecoder(runtime, **how).decode(clips, [speaker])[0]

    one = decode()
    assert (decode(seed=1) != one).any()
    assert (decode(speaker=1) != one).any()
    np.testing.assert_array_equal(decode(temperature=0.5), naive(clips[0], 0, 0, temperature=0.5))
    cold = decode(temperature=0)
    np.testing.assert_array_equal(cold, decode(temperature=0, seed=5))
    np.testing.assert_array_equal(cold, naive(clips[0], 0, 0, temperature=0))


def test_codes_and_audio_are_drawn_with_different_noise():
    assert not np.isin(decoder_noise(3, range(2), 50), noise(3, range(2), 5000)).any()


def test_empty_clips_and_none(runtime):
    decoder = WaveNetDecoder(runtime)
    assert decoder.decode([], []) == []
    found = decoder.decode(codes([0, 3]), [0, 1])
    assert [len(audio) for audio in found] == [0, 48]


def test_progress_and_streams(runtime):
    calls = []
    clips = codes()
    stream = WaveNetDecoder(runtime, batch_size=4).stream(
        clips, SPEAKERS, progress=lambda *call: calls.append(call)
    )
    indices = [index for index, blocks in stream if sum(map(len, blocks))]
    total = sum(LENGTHS) * STRIDE
    assert sorted(indices) == list(range(16))
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_a_consumer_that_stops_early(runtime):
    stream = WaveNetDecoder(runtime, batch_size=4).stream(codes(), SPEAKERS)
    next(stream)
    stream.close()
    assert len(list(WaveNetDecoder(runtime, batch_size=4).stream(codes(), SPEAKERS))) == 16


def test_an_error_in_a_stream_arrives(runtime, monkeypatch):
    decoder = WaveNetDecoder(runtime, batch_size=4)

    def fail(*args, **options):
        raise VqtrtError("no more memory")

    monkeypatch.setattr(_Stream, "_bound", fail)
    with pytest.raises(VqtrtError, match="no more memory"):
        decoder.decode(codes(), SPEAKERS)


def test_padding_is_a_tenth_at_most(runtime, monkeypatch):
    decoder = WaveNetDecoder(runtime, batch_size=8)
    drawn, real = [], _Stream.draw
    monkeypatch.setattr(
        _Stream,
        "draw",
        lambda stream, clips, meter: drawn.append(clips) or real(stream, clips, meter),
    )
    lengths = np.random.default_rng(0).integers(20, 40, 60)
    decoder.decode(codes(lengths), [0] * 60)
    steps = sum(len(batch) * batch[0].samples for batch in drawn)
    assert sum(map(len, drawn)) == 60
    assert steps <= sum(lengths) * STRIDE / 0.9


def test_the_tokenizer_decodes_with_it(runtime):
    clips = codes([7, 12])
    tokenizer = AudioTokenizer(runtime, seed=4, temperature=0.9)
    found = tokenizer.decode(clips, [1, 2], samples=[100, 180])
    expected = WaveNetDecoder(runtime, seed=4, temperature=0.9).decode(clips, [1, 2])
    for one, other, length in zip(found, expected, (100, 180), strict=True):
        np.testing.assert_array_equal(one, other[:length])


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"temperature": -1}, "temperature -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_values_out_of_range(runtime, how, told):
    with pytest.raises(VqtrtError, match=told):
        WaveNetDecoder(runtime, **how)


def test_bad_codes_and_other_models(runtime):
    decoder = WaveNetDecoder(runtime)
    with pytest.raises(VqtrtError, match="clip 1 holds 16 at 2"):
        decoder.decode([np.zeros(3, int), np.array([0, 1, 16])], [0, 0])
    with pytest.raises(VqtrtError, match="clip 0: speaker 3, but the model has 2"):
        decoder.decode([np.zeros(3, int)], [3])
    conv = open_engine(speech_runs.exported("conv"), EngineOptions("onnxruntime"))
    with pytest.raises(VqtrtError, match="decodes with convolutions"):
        WaveNetDecoder(conv)


def test_levels_survive_mulaw():
    np.testing.assert_array_equal(mulaw_encode(mulaw_decode(np.arange(256))), np.arange(256))


def many_clips(count=200):
    """Codes of clips of all lengths to 30, and their speakers."""
    rng = np.random.default_rng(2)
    clips = [rng.integers(0, K, length, np.uint8) for length in rng.integers(0, 30, count)]
    return clips, [index % 3 for index in range(count)]


class Counted:
    """An engine, and how many graphs were bound on it."""

    def __init__(self, engine):
        self.engine, self.bound = engine, 0

    def __getattr__(self, name):
        found = getattr(self.engine, name)
        if not name.startswith("bind"):
            return found

        def bind(*arguments, **options):
            self.bound += 1
            return found(*arguments, **options)

        return bind


@pytest.mark.parametrize("batch_size", [1, 6, 16])
def test_200_clips_bind_few_graphs(batch_size, tmp_path):
    engine = OnnxRuntimeEngine(
        step_bundle(tmp_path / "bundle", (1, 2), unroll=2, hop=8), EngineOptions(threads=2)
    )
    clips, speakers = many_clips()
    counted: Any = Counted(engine)
    decoder = WaveNetDecoder(counted, batch_size=batch_size)
    found = decoder.decode(clips, speakers)
    # The same decoder goes on, with ragged batches.
    for start in range(24):
        some = slice(start, start + 1 + start % 6)
        decoder.decode([clip[:2] for clip in clips[some]], speakers[some])
    stream = -(-batch_size // 2)
    batches = {padded_batch(count, stream) for count in range(1, stream + 1)}
    assert counted.bound <= 2 * (1 + len(batches))
    for index in range(0, 200, 7):
        (alone,) = WaveNetDecoder(engine, batch_size=1).decode(
            [clips[index]], [speakers[index]], numbers=[index]
        )
        np.testing.assert_array_equal(found[index], alone)


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt-rtx"])
def test_200_clips_bind_one_batch_of_a_compiled_engine(package, monkeypatch, tmp_path):
    bundle = step_bundle(tmp_path / "bundle", (1, 2), unroll=2, hop=8)
    module = pretend(monkeypatch)
    build(bundle, package, {"batch": (1, 12), "t": (1, 70)})
    clips, speakers = many_clips()
    decoder = WaveNetDecoder(TensorRTEngine(bundle, EngineOptions(package)), batch_size=16)
    found = decoder.decode(clips, speakers)
    decoder.decode(clips[:5], speakers[:5])
    assert len(module.contexts) == 2
    # One of the steps, and two of the conditioning, which has two sets of addresses.
    assert module.api.calls.count("cudaStreamBeginCapture") == 3
    expected = WaveNetDecoder(OnnxRuntimeEngine(bundle)).decode(clips, speakers)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


THREADS, CALLS, KINDS = 4, 200, 5


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_threads_share_a_decoder(name, monkeypatch):
    """Each call gets what it gets alone, whoever has the streams meanwhile."""
    monkeypatch.setattr("vqtrt.audio.wavenet_decoder._FRAMES", 2)  # less of what is cut off
    engine = open_engine(speech_runs.exported("wavenet"), EngineOptions(name))
    decoder = WaveNetDecoder(engine)
    clips = codes([1] * 2 * KINDS)

    def decode(kind):
        given = clips[2 * kind : 2 * kind + 2]
        return np.concatenate(decoder.decode(given, [0, 2], samples=[4, 3], numbers=[kind, 9]))

    alone = [decode(kind) for kind in range(KINDS)]
    assert len({audio.tobytes() for audio in alone}) == KINDS
    streams = max(1, engine.num_streams)

    def many(thread):
        kinds = [(thread + call) % KINDS for call in range(CALLS)]
        return [kind for kind in kinds if not np.array_equal(decode(kind), alone[kind])]

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(many, range(THREADS))) == [[]] * THREADS
    assert decoder._opened.get("streams", lambda: None).count == streams


def test_a_call_that_nobody_reads_on_holds_up_no_other(runtime):
    decoder = WaveNetDecoder(runtime, batch_size=4)
    stream = decoder.stream(codes(), SPEAKERS)
    next(stream)
    expected = WaveNetDecoder(runtime).decode(codes([3]), [1])
    np.testing.assert_array_equal(decoder.decode(codes([3]), [1])[0], expected[0])
    stream.close()
    np.testing.assert_array_equal(decoder.decode(codes([3]), [1])[0], expected[0])


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_decoders_go_to_other_processes(runtime):
    """Pickled after use, copied, spawned and forked: all open their graphs again."""
    decoder, clips = WaveNetDecoder(runtime, seed=3), codes([3, 2])
    expected = decoder.decode(clips, [0, 1])
    again = [pickle.loads(pickle.dumps(decoder)), copy.deepcopy(decoder)]  # noqa: S301 - our own
    found = [each.decode(clips, [0, 1]) for each in again]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found.append(pool.submit(decoder.decode, clips, [0, 1]).result(timeout=120))
    fork = multiprocessing.get_context("fork")
    reader, writer = fork.Pipe(duplex=False)
    # Not pickled: as it is, its graphs open.
    child = fork.Process(target=lambda: writer.send(decoder.decode(clips, [0, 1])))
    child.start()
    assert reader.poll(60)
    found.append(reader.recv())
    child.join(60)
    assert child.exitcode == 0
    found.append(decoder.decode(clips, [0, 1]))
    for each in found:
        for one, other in zip(each, expected, strict=True):
            np.testing.assert_array_equal(one, other)
