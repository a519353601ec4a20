import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from speech_calls import CHUNK, Seen, codes_of, in_blocks, lengths_of, tokenizer, whole
from speech_doubles import STRIDE, FakeSpeechEngine, noise

from vqtrt.audio import chunks
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.engines.lengths import grid_length
from vqtrt.errors import VqtrtError


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", CHUNK * STRIDE)


def test_facts():
    made = tokenizer()
    assert (made.codebook_size, made.stride, made.info.stride) == (200, 4, 4)
    assert made.preprocessing.sample_rate == 8000
    assert made.chunk == CHUNK + 2 * made.speech.context


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


def test_chunks_of_a_recording_share_batches():
    seen = Seen()
    tokenizer(before=seen).encode_blocks(in_blocks(noise(1, 999), 10))
    # 250 codes: 33 in the first chunk, 30 in each between, 7 of a last one of 13 in the rest.
    chunk = (CHUNK + 6) * STRIDE
    assert seen.shapes == [(4, chunk), (4, chunk), (1, 10 * STRIDE)]


def test_chunks_of_several_recordings_share_batches():
    seen = Seen()
    clips = [noise(seed, length) for seed, length in enumerate((300, 264, 90, 301, 280, 264))]
    found = tokenizer(before=seen).encode(clips)
    for codes, clip in zip(found, clips, strict=True):
        np.testing.assert_array_equal(codes, whole(clip))
    # Two whole chunks each, but for the third; and an end of a few codes of three.
    chunk = (CHUNK + 6) * STRIDE
    assert [shape for shape in seen.shapes if shape[1] == chunk] == [
        (4, chunk),
        (4, chunk),
        (2, chunk),
    ]
    assert sum(rows for rows, _ in seen.shapes) == 14


def test_a_recording_runs_at_the_same_length_in_any_company():
    """A runtime's rounding may depend on the length; so the codes of a recording would."""
    clips = [noise(seed, length) for seed, length in enumerate((70, 71, 77, 140, 300, 500))]

    def lengths(*chosen: np.ndarray) -> list[int]:
        seen = Seen()
        tokenizer(before=seen).encode(list(chosen))
        return sorted(length for rows, length in seen.shapes for _ in range(rows))

    alone = sorted(length for clip in clips for length in lengths(clip))
    assert lengths(*clips) == alone


def test_short_recordings_go_in_batches_of_like_length():
    seen = Seen()
    clips = [noise(1, length) for length in (100, 20, 96, 100, 20, 140, 98)]
    tokenizer(before=seen).encode(clips)
    # 25 codes are 26 on the grid, as 24 to 26 are, and 35 are 36.
    assert sorted(seen.shapes) == [(1, 96), (1, 144), (2, 20), (3, 104)]


def test_a_call_is_bounded_whatever_the_batch(monkeypatch):
    monkeypatch.setattr(chunks, "CALL_SAMPLES", 500)
    seen = Seen()
    tokenizer(64, before=seen).encode([noise(1, 100)] * 5)
    assert seen.shapes == [(2, 104), (2, 104), (1, 104)]


@pytest.mark.parametrize("held", [1, 8])
def test_codes_come_some_recordings_later_and_in_order(monkeypatch, held):
    monkeypatch.setattr(chunks, "HELD_CALLS", {False: held})
    monkeypatch.setattr(chunks, "CALL_SAMPLES", 2000)
    lengths = np.random.default_rng(5).integers(1, 900, 60).tolist()
    asked = []

    def recordings() -> Iterator[Iterator[np.ndarray]]:
        for seed, length in enumerate(lengths):
            asked.append(length)
            yield in_blocks(noise(seed, length), 64)

    for number, codes in enumerate(tokenizer(3).encode_stream(recordings())):
        np.testing.assert_array_equal(codes, whole(noise(number, lengths[number])))
        waiting = sum(asked[number + 1 :])
        assert waiting <= held * 2000 + 1000 + 900
        assert len(asked) - number <= 2 * held * 3 + 1
    assert number == 59


def test_a_stream_of_nothing():
    assert list(tokenizer().encode_stream([])) == []
    made = tokenizer().encode_stream([[], [noise(0, 9)], [np.zeros(0, np.float32)]])
    assert [len(codes) for codes in made] == [0, 3, 0]


CLIPS = 200


@pytest.mark.parametrize("specialized", [False, True])
def test_clips_of_many_lengths_make_few_shapes(monkeypatch, specialized):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 2048 * STRIDE)
    engine = FakeSpeechEngine(before=(seen := Seen()))
    engine.shape_specialized = specialized
    made = AudioTokenizer(engine, batch_size=4)
    # As a tokenizer meets them: some at once, and one by one.
    clips = [noise(seed, 4 * (7 + 13 * seed)) for seed in range(CLIPS)]
    for start in range(0, CLIPS, 20):
        made.encode(clips[start : start + 20])
    assert len({len(clip) for clip in clips}) == CLIPS
    grid = {min(grid_length(count), made.chunk) * STRIDE for count in range(1, made.chunk + 1)}
    assert len(grid) < 75
    assert lengths_of(seen) <= grid
    if specialized:
        assert len(set(seen.shapes)) == len(lengths_of(seen)) <= 75
    seen.shapes.clear()
    for start in range(0, CLIPS, 20):
        part = [codes_of(seed, 7 + 13 * seed) for seed in range(start, start + 20)]
        made.decode(part, [seed % 4 for seed in range(20)])
    assert lengths_of(seen) <= {count // STRIDE for count in grid} | {2048 + 2 * 2}
    if specialized:
        assert len(set(seen.shapes)) == len(lengths_of(seen)) <= 75


def test_filling_up_batches_changes_nothing():
    engine = FakeSpeechEngine(before=(seen := Seen()))
    engine.shape_specialized = True
    made = AudioTokenizer(engine, batch_size=5)
    clips = [noise(seed, length) for seed, length in enumerate((60, 61, 140, 9, 500))]
    for codes, clip in zip(made.encode(clips), clips, strict=True):
        np.testing.assert_array_equal(codes, whole(clip))
    rows = [codes_of(seed, count) for seed, count in enumerate((20, 21, 90, 0, 3))]
    voices = [3, 1, 0, 2, 1]
    for audio, own, voice in zip(made.decode(rows, voices), rows, voices, strict=True):
        if len(own):
            speakers = np.array([voice])
            expected = FakeSpeechEngine().decoder(own[None].astype(np.int32), speakers)[0]
            np.testing.assert_array_equal(audio, expected)
    assert {shape[0] for shape in seen.shapes} == {5}


def test_memory_does_not_grow_with_the_recording(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 1000 * STRIDE)
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
        (np.array([0, np.nan], np.float32), "sample 1 is nan; samples are finite"),
        (np.array([0, -np.inf], np.float32), "sample 1 is -inf"),
        (np.sin(np.arange(9)) * 2e4, r"sample 1 is 16829\.4; .* divide 16-bit samples by 32768"),
        (np.zeros((6400, 2), np.float32), r"shape \(6400, 2\): .*; transpose it \(audio\.T\)"),
        ([np.zeros((6400, 2), np.float32)], r"not float32 \(6400, 2\).*: audio\.mean\(1\)"),
        ([np.zeros((2, 6400), np.float32)], r"not float32 \(2, 6400\).*: audio\.mean\(0\)"),
        ([0.5, 0.25], r"not float64 \(\)"),
    ],
)
def test_what_is_no_recording(audio, message):
    with pytest.raises(VqtrtError, match=message):
        tokenizer().encode(audio)
    blocks = audio if isinstance(audio, list) else [audio]
    with pytest.raises(VqtrtError, match=r"0 samples|audio must be|finite and within"):
        tokenizer().encode_blocks(iter(blocks))
    with pytest.raises(VqtrtError, match=r"transpose it|audio must be|finite and within"):
        next(tokenizer().encode_stream([[*blocks, np.zeros(0, np.int8)]]))


def test_blocks_whose_time_comes_first():
    with pytest.raises(VqtrtError, match="transpose it"):
        tokenizer().encode_blocks(np.zeros((6400, 2), np.float32))


def test_loud_audio_within_the_bound_of_files_is_audio():
    loud = noise(3, 50) * 90
    np.testing.assert_array_equal(tokenizer().encode(loud), whole(loud))


def test_no_blocks():
    with pytest.raises(VqtrtError, match="0 samples"):
        tokenizer().encode_blocks(iter([]))
