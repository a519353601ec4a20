from collections.abc import Callable

import numpy as np
import pytest
from doubles import FakeEngine
from speech_calls import CHUNK, Seen, codes_of, lengths_of, tokenizer
from speech_doubles import STRIDE, FakeSpeechEngine, noise

from vqtrt.audio import chunks
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.errors import VqtrtError


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", CHUNK * STRIDE)


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
    assert chunk in lengths_of(seen)


def test_little_is_padding():
    seen = Seen()
    rng = np.random.default_rng(2)
    counts = rng.integers(1, CHUNK, 100).tolist()
    tokenizer(before=seen).decode([codes_of(0, n) for n in counts], [0] * 100)
    steps = sum(batch * t for batch, t in seen.shapes)
    assert sum(counts) >= 0.9 * steps
    assert max(batch for batch, _ in seen.shapes) == 4


def test_chunks_of_several_clips_share_batches_in_decoding():
    seen = Seen()
    made = tokenizer(before=seen)
    made.decode([codes_of(seed, 50) for seed in range(4)], [0, 1, 2, 3])
    assert seen.shapes == [(4, CHUNK + 4), (4, 20)]


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
    with pytest.raises(ValueError, match="-1 samples of"):
        tokenizer().decode([codes_of(0, 9)], [0], samples=[-1])


def test_batch_size_must_be_positive():
    with pytest.raises(VqtrtError, match="batch size 0"):
        tokenizer(0)


def test_a_model_of_images_is_refused():
    with pytest.raises(VqtrtError, match="the model is of images"):
        AudioTokenizer(FakeEngine())


def test_graphs_are_opened_when_needed_and_once():
    opened = []

    class Engine(FakeSpeechEngine):
        def open(self, graph: str) -> Callable[..., np.ndarray]:
            opened.append(graph)
            return super().open(graph)

    made = AudioTokenizer(Engine())
    assert opened == []
    made.encode(noise(0, 10))
    made.encode(noise(0, 1000))
    assert opened == ["encoder"]
    made.decode([codes_of(0, 100)], [0])
    made.decode([codes_of(0, 200)], [0])
    assert opened == ["encoder", "decoder"]
