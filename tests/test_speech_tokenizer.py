import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from doubles import FakeEngine
from speech_doubles import STRIDE, FakeSpeechEngine, noise

from vqtrt import speech_tokenizer
from vqtrt.errors import VqtrtError
from vqtrt.speech_tokenizer import SpeechTokenizer

CHUNK = 30
"""Codes of a chunk that are kept, in these tests."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(speech_tokenizer, "CHUNK_SAMPLES", CHUNK * STRIDE)


def tokenizer(batch_size: int = 4, **engine) -> SpeechTokenizer:
    return SpeechTokenizer(FakeSpeechEngine(**engine), batch_size=batch_size)


def whole(audio: np.ndarray, **engine) -> np.ndarray:
    """Codes of a recording that goes through the encoder in one piece."""
    padded = np.pad(audio, (0, -len(audio) % STRIDE))
    return FakeSpeechEngine(**engine).encoder(padded[None])[0]


def in_blocks(audio: np.ndarray, size: int):
    return iter([audio[start : start + size] for start in range(0, len(audio), size)])


def codes_of(seed: int, count: int, size: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, count).astype(np.uint8)


class Seen:
    """What the engine was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, name: str, array: np.ndarray) -> None:
        self.shapes.append(array.shape)


def test_facts():
    made = tokenizer()
    assert (made.codebook_size, made.stride, made.facts.stride) == (200, 4, 4)
    assert made.preprocessing.sample_rate == 8000
    assert made.chunk == CHUNK + 2 * made.speech.context


# encode


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_codes_of_a_recording_do_not_depend_on_the_others(batch_size):
    lengths = [1, 3, 4, 5, 40, 41, 90, 91, 90, 40, 143, 144, 145, 400, 2000]
    clips = [noise(seed, length) for seed, length in enumerate(lengths)]
    codes = tokenizer(batch_size).encode(clips)
    assert [len(each) for each in codes] == [-(-length // STRIDE) for length in lengths]
    for found, clip in zip(codes, clips, strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, whole(clip))
    assert len(np.unique(np.concatenate(codes))) > 100


@pytest.mark.parametrize("size", [1, 7, 64, 143, 1000, 10_000])
@pytest.mark.parametrize("length", [1, 119, 120, 121, 144, 145, 264, 265, 1000, 1201])
def test_a_recording_in_blocks_has_the_codes_of_the_whole(size, length):
    audio = noise(length, length)
    np.testing.assert_array_equal(tokenizer().encode_blocks(in_blocks(audio, size)), whole(audio))


def test_every_length_around_the_chunks():
    made = tokenizer()
    for length in range(1, 3 * CHUNK * STRIDE, 13):
        audio = noise(length, length)
        found = made.encode_blocks(iter([audio[:50], audio[:0], audio[50:]]))
        np.testing.assert_array_equal(found, whole(audio))


@pytest.mark.parametrize("context", [0, 1, 6])
def test_chunks_overlap_by_what_the_encoder_looks_at(context):
    audio = noise(1, 1500)
    found = tokenizer(context=context).encode_blocks(in_blocks(audio, 100))
    np.testing.assert_array_equal(found, whole(audio, context=context))


def test_too_little_overlap_would_be_seen():
    made = tokenizer()
    made.speech = made.speech.model_copy(update={"context": 2})
    audio = noise(1, 1500)
    assert np.any(made.encode_blocks(iter([audio])) != whole(audio))


def test_chunks_have_one_shape():
    seen = Seen()
    tokenizer(before=seen).encode_blocks(in_blocks(noise(1, 999), 10))
    assert set(seen.shapes) == {(1, (CHUNK + 6) * STRIDE)}
    # 250 codes: 33 in the first, 30 in each between, the rest in the last.
    assert len(seen.shapes) == 9


def test_short_recordings_go_in_batches_of_like_length():
    seen = Seen()
    clips = [noise(1, length) for length in (100, 20, 96, 100, 20, 140, 300)]
    tokenizer(before=seen).encode(clips)
    chunk = (CHUNK + 6) * STRIDE
    assert seen.shapes == [(1, chunk), (1, chunk), (1, chunk), (1, 140), (3, 100), (2, 20)]


def test_a_call_is_bounded_whatever_the_batch(monkeypatch):
    monkeypatch.setattr(speech_tokenizer, "CALL_SAMPLES", 250)
    seen = Seen()
    tokenizer(64, before=seen).encode([noise(1, 100)] * 5)
    assert seen.shapes == [(2, 100), (2, 100), (1, 100)]


def test_memory_does_not_grow_with_the_recording(monkeypatch):
    monkeypatch.setattr(speech_tokenizer, "CHUNK_SAMPLES", 1000 * STRIDE)
    made = tokenizer()

    def blocks(count):
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield rng.random(400, np.float32)

    def peak(count: int) -> int:
        tracemalloc.start()
        codes = made.encode_blocks(blocks(count))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(codes) == count * 100
        return most

    peak(10)
    few, many = peak(50), peak(1000)
    # These blocks alone would be 1.6 MB. The codes are 100 kB, once in parts and once as a whole.
    assert many - few < 300_000


def test_one_recording_without_a_list():
    audio = noise(3, 77)
    made = tokenizer()
    np.testing.assert_array_equal(made.encode(audio), whole(audio))
    np.testing.assert_array_equal(made.encode(audio.astype(np.float64)), whole(audio))
    np.testing.assert_array_equal(made.encode(np.stack([audio, audio]))[1], whole(audio))
    assert made.encode([]) == []


@pytest.mark.parametrize(("size", "dtype"), [(256, "u1"), (257, "u2"), (65537, "u4")])
def test_smallest_dtype(size, dtype):
    made = tokenizer(codebook_size=size)
    assert made.encode(noise(1, 50)).dtype == np.dtype(dtype)
    assert made.encode_blocks(iter([noise(1, 500)])).dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(9, np.int16), r"must be float32 of shape \(samples,\) in \[-1, 1\], not int16"),
        (np.zeros((1, 2, 9), np.float32), r"not float32 \(2, 9\)"),
        (np.zeros(0, np.float32), "0 samples"),
        (np.array([0, np.nan], np.float32), "no numbers"),
        (np.array([0, -np.inf], np.float32), "no numbers"),
    ],
)
def test_what_is_no_recording(audio, message):
    with pytest.raises(VqtrtError, match=message):
        tokenizer().encode(audio)
    with pytest.raises(VqtrtError, match=r"0 samples|audio must be|no numbers"):
        tokenizer().encode_blocks(iter([audio]))


def test_no_blocks():
    with pytest.raises(VqtrtError, match="0 samples"):
        tokenizer().encode_blocks(iter([]))


# decode


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_audio_of_a_clip_does_not_depend_on_the_others(batch_size):
    counts = [1, 2, 20, 21, 33, 34, 35, 34, 20, 0, 61, 62, 200]
    clips = [codes_of(seed, count) for seed, count in enumerate(counts)]
    speakers = [i % 4 for i in range(len(clips))]
    audio = tokenizer(batch_size).decode(clips, speakers)
    engine = FakeSpeechEngine()
    for found, clip, speaker in zip(audio, clips, speakers, strict=True):
        assert (found.dtype, found.shape) == (np.float32, (len(clip) * STRIDE,))
        if len(clip):
            wanted = engine.decoder(clip[None].astype(np.int32), np.array([speaker]))[0]
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("reach", [0, 1, 5])
def test_long_clips_are_decoded_in_overlapping_chunks(reach):
    seen = Seen()
    made = tokenizer(decoder_context=reach, before=seen)
    for count in [*range(CHUNK, CHUNK + 2 * reach + 3), 100, 157]:
        clip = codes_of(count, count)
        wanted = FakeSpeechEngine(decoder_context=reach).decoder(
            clip[None].astype(np.int32), np.array([1])
        )[0]
        np.testing.assert_array_equal(made.decode([clip], [1])[0], wanted)
    chunk = max(CHUNK, 8 * reach) + 2 * reach
    assert max(shape[1] for shape in seen.shapes) == chunk
    assert (1, chunk) in seen.shapes


def test_batches_are_filled_up_by_a_tenth_at_most():
    seen = Seen()
    rng = np.random.default_rng(2)
    counts = rng.integers(1, CHUNK, 100).tolist()
    tokenizer(before=seen).decode([codes_of(0, n) for n in counts], [0] * 100)
    steps = sum(batch * t for batch, t in seen.shapes)
    assert sum(counts) >= 0.9 * steps
    assert max(batch for batch, _ in seen.shapes) == 4


def test_streaming_gives_the_longest_first_and_in_blocks():
    clips = [codes_of(i, count) for i, count in enumerate((10, 200, 20, 100))]
    made = tokenizer()
    found = [(index, [len(b) for b in blocks]) for index, blocks in made.stream(clips, [0] * 4)]
    assert [index for index, _ in found] == [1, 3, 2, 0]
    assert len(found[0][1]) > 5
    assert [sum(lengths) for _, lengths in found] == [800, 400, 80, 40]


def test_blocks_stay_what_they_are_when_the_next_are_made():
    clips = [codes_of(0, 90), *[codes_of(i, 20) for i in range(1, 6)]]
    made = tokenizer(2)
    kept = [(i, list(blocks)) for i, blocks in made.stream(clips, [0] * 6)]
    wanted = made.decode(clips, [0] * 6)
    for index, blocks in kept:
        np.testing.assert_array_equal(np.concatenate(blocks), wanted[index])


@pytest.mark.parametrize(
    ("codes", "speaker", "message"),
    [
        (np.array([0, 200]), 0, r"clip 1 holds 200 at 1, but the codebook has 200 entries"),
        (np.array([-1, 0]), 0, r"clip 1 holds -1 at 0"),
        (np.array([0.5]), 0, r"clip 1: codes are integers \(t,\), not float64"),
        (np.zeros((2, 2), int), 0, r"not int64 \(2, 2\)"),
        (np.array([0]), 4, "clip 1: speaker 4, but the model has 3"),
        (np.array([0]), -1, "clip 1: speaker -1"),
    ],
)
def test_what_cannot_be_decoded(codes, speaker, message):
    def work(*_):
        raise AssertionError

    with pytest.raises(VqtrtError, match=message):
        tokenizer(before=work).decode([codes_of(0, 9), codes], [0, speaker])


def test_no_clips():
    assert tokenizer().decode([], []) == []


# both


def test_batch_size_must_be_positive():
    with pytest.raises(VqtrtError, match="batch size 0"):
        tokenizer(0)


def test_a_model_of_images_is_refused():
    engine = SimpleNamespace(facts=FakeEngine().facts, speech=None)
    with pytest.raises(VqtrtError, match="a model of images, where one of speech is wanted"):
        SpeechTokenizer(engine)


def test_graphs_are_opened_when_needed_and_once():
    opened = []

    class Engine(FakeSpeechEngine):
        def open(self, graph):
            opened.append(graph)
            return super().open(graph)

        def bind(self, graph, sizes):
            opened.append((graph, *sizes.values()))
            return super().bind(graph, sizes)

    made = SpeechTokenizer(Engine())
    assert opened == []
    made.encode(noise(0, 10))
    made.encode(noise(0, 1000))
    assert opened == ["encoder"]
    # A shape that comes again keeps its buffers.
    made.decode([codes_of(0, 100)], [0])
    made.decode([codes_of(0, 200)], [0])
    assert opened == ["encoder", ("decoder", 1, CHUNK + 4)]
