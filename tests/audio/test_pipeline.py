import itertools
import shutil
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from doubles import MODEL, tree
from speech_doubles import RATE, STRIDE, FakeSpeech, FakeSpeechEngine, noise

from vqtrt.audio import pipeline as speech_pipeline
from vqtrt.audio import tokenizer as speech_tokenizer
from vqtrt.audio.pipeline import decode_speech, encode_speech, speaker_number, speaker_numbers
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.audio.clips import MOST_OPEN
from vqtrt.data.audio.decode import AudioPreprocessing, read_audio
from vqtrt.data.audio.open import SpeechFolder
from vqtrt.data.source import Item
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.formats import folder_writer
from vqtrt.formats.audio_codes import ClipCodes, ClipHeader, read_clip_codes
from vqtrt.images.pipeline import list_source

LENGTHS = [60, 900, 7, 60, 64, 300, 1, 145, 144, 143, 33, 50, 1500, 20, 21, 22, 400, 5, 99, 100]
"""Samples of twenty recordings; a chunk is 144, so that five are cut, and one of them streams."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(speech_tokenizer, "CHUNK_SAMPLES", 30 * STRIDE)
    monkeypatch.setattr(speech_tokenizer, "CALL_SAMPLES", 10 * 36 * STRIDE)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def encode(source, out: Path, *, batch_size: int = 2, engine=None, **options):
    settings: dict[str, Any] = {"root": "voices", "model": MODEL, "workers": 2} | options
    tokenizer = AudioTokenizer(engine or FakeSpeechEngine(), batch_size=batch_size)
    return encode_speech(tokenizer, source, out, **settings)


def expected(index: int, lengths=LENGTHS) -> np.ndarray:
    audio = noise(index, lengths[index])
    padded = np.pad(audio, (0, -len(audio) % STRIDE))
    return FakeSpeechEngine().encoder(padded[None])[0]


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


BOTH = ["codes.json", "codes.npy"]
PARTIAL = ["codes.npy.partial", "codes.npy.partial.jsonl"]


# encode


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_codes_follow_the_source(out, batch_size):
    assert encode(FakeSpeech(LENGTHS), out, batch_size=batch_size)[:4] == (out, 20, 0, 0)
    codes = read_clip_codes(out)
    assert codes.files == tuple(f"{index:06}.wav" for index in range(20))
    assert codes.samples == tuple(LENGTHS)
    assert codes.labels == tuple(index % 3 - 1 for index in range(20))
    for index in range(20):
        np.testing.assert_array_equal(codes.clip(index), expected(index))
    assert left(out) == BOTH


def test_facts_are_written(out):
    encode(FakeSpeech(LENGTHS), out)
    header = read_clip_codes(out).header
    assert header is not None
    assert (header.codebook_size, header.sample_rate, header.stride) == (200, RATE, STRIDE)
    assert (header.classes, header.root) == (("bob", "zoe"), "voices")
    assert header.weights_sha256 == FakeSpeechEngine.weights_sha256
    assert header.model == {"path": "runs/fake", "engine": "fake"}
    assert header.preprocessing == {"sample_rate": RATE, "level_db": None}
    assert header.listing_sha256 == list_source(FakeSpeech(LENGTHS)).sha256


def test_batches_and_threads_change_nothing(tmp_path):
    found = set()
    for batch_size, workers in itertools.product([1, 3, 64], [1, 5]):
        out = tmp_path / f"{batch_size}-{workers}.npy"
        encode(FakeSpeech(LENGTHS), out, batch_size=batch_size, workers=workers)
        found.add((out.read_bytes(), out.with_suffix(".json").read_bytes()))
    assert len(found) == 1


def test_recordings_at_another_level(out):
    how = AudioPreprocessing(sample_rate=RATE, level_db=-20)
    encode(FakeSpeech([60]), out, preprocessing=how)
    codes = read_clip_codes(out)
    np.testing.assert_array_equal(
        codes.clip(0), FakeSpeechEngine().encoder(noise(0, 60)[None] / 2)[0]
    )
    assert codes.header is not None
    assert codes.header.preprocessing == {"sample_rate": RATE, "level_db": -20.0}


def test_another_rate_than_the_model_was_trained_on_is_refused(out):
    how = AudioPreprocessing(sample_rate=16_000)
    with pytest.raises(VqtrtError, match="sample rate 16000: the model takes 8000"):
        encode(FakeSpeech(LENGTHS), out, preprocessing=how)
    assert left(out) == []


@pytest.mark.parametrize("bad", [2, 16], ids=["a short one", "a long one"])
def test_stops_at_a_recording_that_cannot_be_read_and_leaves_nothing(out, bad):
    with pytest.raises(AudioError, match=rf"0000{bad:02}\.wav: not a recording"):
        encode(FakeSpeech(LENGTHS, bad=[bad, 18]), out)
    assert left(out) == []


def test_stopping_keeps_what_was_committed(out, monkeypatch):
    monkeypatch.setattr(speech_pipeline, "_COMMIT_SECONDS", -1)
    with pytest.raises(AudioError, match=r"000018\.wav.*first 18 items are kept in .*--resume con"):
        encode(FakeSpeech(LENGTHS, bad=[18]), out)
    assert left(out) == PARTIAL
    result = encode(FakeSpeech(LENGTHS), out, resume=True)
    assert (result.rows, result.resumed_at) == (20, 18)
    whole = out.with_name("whole.npy")
    encode(FakeSpeech(LENGTHS), whole)
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()


def test_skipping_lists_every_recording_once(out):
    bad = [0, 1, 9, 12, 19]
    result = encode(FakeSpeech(LENGTHS, bad=bad), out, on_error="skip")
    assert (result.rows, result.rejected) == (15, 5)
    codes = read_clip_codes(out)
    assert [entry.file for entry in codes.rejected] == [f"{index:06}.wav" for index in bad]
    assert all(entry.file in entry.reason for entry in codes.rejected)
    good = [index for index in range(20) if index not in bad]
    assert codes.files == tuple(f"{index:06}.wav" for index in good)
    for row, index in enumerate(good):
        np.testing.assert_array_equal(codes.clip(row), expected(index))


@pytest.mark.parametrize("seconds", [2, -1], ids=["at once", "after a commit"])
def test_nothing_but_rejects_leaves_nothing(out, monkeypatch, seconds):
    monkeypatch.setattr(speech_pipeline, "_COMMIT_SECONDS", seconds)
    with pytest.raises(VqtrtError, match="none of its 4 files is a recording that can be read"):
        encode(FakeSpeech([10, 500, 20, 30], bad=range(4)), out, on_error="skip")
    assert left(out) == []


@pytest.mark.parametrize("when", ["read", "engine"])
@pytest.mark.parametrize("error", [RuntimeError("crash"), KeyboardInterrupt()])
def test_a_job_that_was_broken_off_equals_an_unbroken_one(out, monkeypatch, when, error):
    monkeypatch.setattr(speech_pipeline, "_COMMIT_SECONDS", -1)
    whole = out.parent / "whole.npy"
    bad = [3, 4, 5, 17]
    encode(FakeSpeech(LENGTHS, bad), whole, on_error="skip")

    def crash(*_):
        raise error

    calls = itertools.count()
    engine = FakeSpeechEngine(
        before=lambda *_: crash() if when == "engine" and next(calls) == 20 else None
    )

    def reading(item, block):
        # In the middle of a long recording.
        if when == "read" and item.key == 12 and block == 20:
            crash()

    with pytest.raises(type(error)) as caught:
        encode(FakeSpeech(LENGTHS, bad, reading), out, engine=engine, on_error="skip")
    assert any("--resume continues" in note for note in caught.value.__notes__)
    assert left(out) == [*PARTIAL, "whole.json", "whole.npy"]

    read = set()
    source = FakeSpeech(LENGTHS, bad, lambda item, block: read.add(item.key))
    result = encode(source, out, on_error="skip", resume=True, batch_size=4)
    assert 1 <= result.resumed_at <= 12
    assert read == set(range(result.resumed_at, 20))
    assert (result.rows, result.rejected) == (16, 4)
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()


def test_resume_refuses_another_listing_model_or_level(out, monkeypatch):
    monkeypatch.setattr(speech_pipeline, "_COMMIT_SECONDS", -1)
    with pytest.raises(AudioError):
        encode(FakeSpeech(LENGTHS, bad=[18]), out)
    with pytest.raises(VqtrtError, match="the data's list of files changed since it was begun"):
        encode(FakeSpeech(LENGTHS[:-1]), out, resume=True)
    other = FakeSpeechEngine()
    other.weights_sha256 = "0" * 64
    with pytest.raises(VqtrtError, match="the model changed since it was begun"):
        encode(FakeSpeech(LENGTHS), out, resume=True, engine=other)
    how = AudioPreprocessing(sample_rate=RATE, level_db=-20)
    with pytest.raises(VqtrtError, match="begun with another preprocessing"):
        encode(FakeSpeech(LENGTHS), out, resume=True, preprocessing=how)
    assert left(out) == PARTIAL


def test_a_source_that_changes_under_way_is_noticed(out):
    source = FakeSpeech(LENGTHS)

    def grow(*_):
        if len(source.lengths) == 20:
            source.lengths = [*LENGTHS, 10]

    with pytest.raises(VqtrtError, match="held 20 files at first and 21 at the end"):
        encode(source, out, engine=FakeSpeechEngine(before=grow))
    assert not out.exists()


def write_voices(folder: Path) -> Path:
    """Five recordings of two speakers and of none, the last one long."""
    for index, name in enumerate(["ann/1.wav", "ann/2.wav", "bob/1.wav", "top.wav", "zz.flac"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, noise(index, 50 + 300 * index), RATE)
    return folder


def test_a_folder_of_recordings(out, tmp_path):
    folder = write_voices(tmp_path / "voices")
    (folder / "bob/2.wav").write_bytes(b"RIFF, but no more")
    with pytest.raises(AudioError, match=r"bob/2\.wav"):
        encode(SpeechFolder(folder), out)
    result = encode(SpeechFolder(folder), out, on_error="skip")
    assert (result.rows, result.rejected) == (5, 1)
    codes = read_clip_codes(out)
    assert codes.files == ("ann/1.wav", "ann/2.wav", "bob/1.wav", "top.wav", "zz.flac")
    assert (codes.labels, codes.samples) == ((0, 0, 1, -1, -1), (50, 350, 650, 950, 1250))
    how = AudioPreprocessing(sample_rate=RATE)
    for index, file in enumerate(codes.files):
        audio = read_audio(folder / file, how)
        padded = np.pad(audio, (0, -len(audio) % STRIDE))
        np.testing.assert_array_equal(
            codes.clip(index), FakeSpeechEngine().encoder(padded[None])[0]
        )


def test_out_inside_the_folder_is_refused(tmp_path):
    folder = write_voices(tmp_path / "voices")
    before = tree(folder)
    for out in (folder / "codes.npy", folder / "bob/codes.npy"):
        with pytest.raises(VqtrtError, match=r"is inside voices, .*give --out a path outside"):
            encode(SpeechFolder(folder), out)
    assert tree(folder) == before
    encode(SpeechFolder(folder), tmp_path / "codes.npy")
    # Beside a single recording there is room.
    result = encode(SpeechFolder(folder / "zz.flac"), folder / "zz.npy")
    assert (result.rows, read_clip_codes(folder / "zz.npy").files) == (1, ("zz.flac",))


def test_long_recordings_are_committed_one_by_one(out, monkeypatch):
    monkeypatch.setattr(speech_pipeline, "_COMMIT_SECONDS", -1)
    calls = itertools.count()

    def crash(*_):
        # A recording has 17 chunks, and a call takes five: the third or fourth is being encoded.
        if next(calls) == 10:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError) as caught:
        encode(FakeSpeech([2000] * 4), out, engine=FakeSpeechEngine(before=crash), batch_size=64)
    assert "the first 2 items are kept" in caught.value.__notes__[0]


def test_chunks_of_several_recordings_share_a_call(out):
    shapes = []
    engine = FakeSpeechEngine(before=lambda name, array: shapes.append(array.shape))
    encode(FakeSpeech([300] * 6), out, engine=engine, batch_size=4)
    # Of each two chunks of 36 codes, which 66 codes make, and one of the rest.
    assert shapes.count((4, 144)) == 3
    assert sum(rows for rows, _ in shapes) == 18


def test_many_recordings_that_stream_are_open_a_few_at_a_time(out, monkeypatch):
    """Each is an open file for as long as its blocks are not all taken."""
    monkeypatch.setattr(speech_pipeline, "_WHOLE", 1)
    count, now, most = 80, 0, 0
    lock = threading.Lock()
    source = FakeSpeech([300] * count)
    blocks = source.blocks

    def opened(item: Item, preprocessing: AudioPreprocessing) -> Iterator[np.ndarray]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        yield from blocks(item, preprocessing)
        with lock:
            now -= 1

    source.blocks = opened
    assert encode(source, out, batch_size=256, workers=64).rows == count
    assert now == 0
    assert most <= MOST_OPEN + 1


def test_memory_does_not_grow_with_a_recording_nor_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(speech_tokenizer, "CHUNK_SAMPLES", 1000 * STRIDE)

    def peak(lengths: list[int]) -> int:
        source = FakeSpeech(lengths, block=1000)
        source.blocks = lambda item, preprocessing: (
            noise(block, 1000) for block in range(source.lengths[item.key] // 1000)
        )
        tracemalloc.start()
        encode(source, tmp_path / "codes.npy", batch_size=2)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak([50_000])
    one, long = peak([50_000]), peak([1_000_000])
    few, many = peak([50_000] * 16), peak([50_000] * 32)
    # A million samples alone are 4 MB; their codes are 250 kB, in parts, whole, and in buffers.
    assert long - one < 1_500_000
    assert many - few < 800_000


def test_progress_counts_to_the_end(out):
    calls = []
    encode(
        FakeSpeech([50] * 20, bad=[2]),
        out,
        on_error="skip",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, 20) for done in range(21)]


# decode


def codes_of(path: Path, lengths: list[int], files=None, labels=None, **header) -> ClipCodes:
    """As read from files that a stranger gave; lengths in samples."""
    counts = [-(-length // STRIDE) for length in lengths]
    fields = {
        "codebook_size": 200,
        "sample_rate": RATE,
        "stride": STRIDE,
        "classes": ("bob", "zoe"),
        "root": "voices",
        "listing_sha256": "a" * 64,
        "weights_sha256": "f" * 64,
        "model": {},
        "preprocessing": {},
        "vqtrt_version": "0.1.0",
    }
    return ClipCodes(
        path / "codes.npy",
        np.random.default_rng(0).integers(0, 200, sum(counts)).astype(np.uint8),
        tuple(itertools.accumulate(counts, initial=0)),
        ClipHeader(**(fields | header)),
        tuple(files or (f"{index}.flac" for index in range(len(lengths)))),
        tuple(labels or [0] * len(lengths)),
        tuple(lengths),
    )


def decode(codes: ClipCodes, out: Path, *, batch_size: int = 3, before=None, **options) -> int:
    engine = FakeSpeechEngine(before=before or (lambda *_: None))
    return decode_speech(AudioTokenizer(engine, batch_size=batch_size), codes, out, **options)


def samples(path: Path) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return audio


def wanted(codes: ClipCodes, index: int, speaker: int) -> np.ndarray:
    clip = np.asarray(codes.clip(index))[None].astype(np.int32)
    audio = FakeSpeechEngine().decoder(clip, np.array([speaker]))[0][: codes.samples[index]]
    return np.rint(audio * 32767).astype(np.int16)


LONG = [1, 50, 51, 900, 52, 1, 143, 601]


def test_wavs_come_back_under_their_names_and_as_long(tmp_path):
    files = [f"bob/{index}.flac" for index in range(7)] + ["top.mp3"]
    codes = codes_of(tmp_path, LONG, files)
    assert decode(codes, tmp_path / "back") == 8
    assert [n for n in tree(tmp_path / "back") if n != "bob"] == [
        *(f"bob/{index}.wav" for index in range(7)),
        "top.wav",
    ]
    for index, file in enumerate(files):
        found = samples((tmp_path / "back" / file).with_suffix(".wav"))
        np.testing.assert_array_equal(found, wanted(codes, index, 1))
    info = soundfile.info(tmp_path / "back/top.wav")
    assert (info.subtype, info.channels, info.frames) == ("PCM_16", 1, 601)
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


def test_batches_change_no_wav(tmp_path):
    codes = codes_of(tmp_path, LONG)
    for size in (1, 2, 64):
        decode(codes, tmp_path / str(size), batch_size=size)
        for path in (tmp_path / str(size)).rglob("*.wav"):
            assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes()


def test_there_and_back(tmp_path, out):
    encode(FakeSpeech(LENGTHS, classes=("bob",)), out)
    codes = read_clip_codes(out)
    assert decode(codes, tmp_path / "back", speaker="ann") == 20
    for index, length in enumerate(LENGTHS):
        found = samples(tmp_path / f"back/{index:06}.wav")
        assert len(found) == length
        np.testing.assert_array_equal(found, wanted(codes, index, 0))


def test_without_json_one_clip_is_numbered_and_not_cut(tmp_path, out):
    np.save(out, np.arange(100) % 200)
    codes = read_clip_codes(out)
    with pytest.raises(VqtrtError, match="clip 0 has no speaker; give a speaker with --speaker"):
        decode(codes, tmp_path / "back")
    assert decode(codes, tmp_path / "back", speaker="cy") == 1
    assert len(samples(tmp_path / "back/000000.wav")) == 400


def test_speakers_are_found_by_name():
    class Codes(SimpleNamespace):
        def __len__(self):
            return len(self.labels)

    header = SimpleNamespace(classes=("zoe", "cy", "ann"))
    codes: Any = Codes(labels=(2, 1, 2), header=header)
    assert speaker_numbers(codes, ("ann", "bob", "cy"), None) == [0, 2, 0]
    assert speaker_numbers(codes, ("ann", "bob", "cy"), "bob") == [1, 1, 1]
    # A model that was trained without speakers has one number, for none.
    assert speaker_numbers(codes, (), None) == [0, 0, 0]


def test_speakers_that_are_not_known(tmp_path):
    codes = codes_of(tmp_path, [10, 20, 30], ["a", "b", "c"], [0, 1, -1])
    known = r"; give a speaker with --speaker: ann, bob, cy$"
    with pytest.raises(VqtrtError, match=rf"clip 1 \(b\) is of zoe, unknown to the model{known}"):
        decode(codes, tmp_path / "back")
    codes = codes_of(tmp_path, [10, 20], ["a", "b"], [0, -1])
    with pytest.raises(VqtrtError, match=rf"clip 1 \(b\) has no speaker{known}"):
        decode(codes, tmp_path / "back")
    with pytest.raises(VqtrtError, match="speaker zoe: unknown to the model; it knows ann, bob, c"):
        decode(codes, tmp_path / "back", speaker="zoe")
    assert tree(tmp_path) == []
    assert decode(codes, tmp_path / "back", speaker="ann") == 2
    with pytest.raises(VqtrtError, match="knows no speakers; leave --speaker out"):
        speaker_number((), "zoe")


@pytest.mark.parametrize(("change", "message"), [("stride", 8), ("sample_rate", 16_000)])
def test_codes_of_another_kind_of_model(tmp_path, change, message):
    codes = codes_of(tmp_path, [8, 16], **{change: message})
    with pytest.raises(VqtrtError, match=r"give the model that made these codes"):
        decode(codes, tmp_path / "back")


def test_all_codes_are_checked_before_any_is_decoded(tmp_path):
    codes = codes_of(tmp_path, [400, 400])
    codes.codes[199] = 200

    def work(*_):
        raise AssertionError

    with pytest.raises(VqtrtError, match=r"clip 1 \(1\.flac\) holds 200 at 99, but the codebook"):
        decode(codes, tmp_path / "back", before=work)
    assert tree(tmp_path) == []


def test_names_that_lead_outside_are_refused(tmp_path):
    with pytest.raises(VqtrtError, match="no file in the output folder"):
        decode(codes_of(tmp_path, [8, 8], ["a.wav", "../b.wav"]), tmp_path / "in/back")
    assert tree(tmp_path) == []


def test_names_that_would_meet_are_kept_apart(tmp_path):
    assert (
        decode(codes_of(tmp_path, [4, 8, 12], ["a.wav", "a.mp3", "b.flac"]), tmp_path / "back") == 3
    )
    assert tree(tmp_path / "back") == ["a.mp3.wav", "a.wav", "b.wav"]
    assert len(samples(tmp_path / "back/a.mp3.wav")) == 8


def test_names_with_odd_characters_are_kept(tmp_path):
    files = ["a\nb.wav", "\x1b[31m.wav", "back\\slash.wav", "sp ace.wav", "\udcff.wav"]
    assert decode(codes_of(tmp_path, [8] * 5, files), tmp_path / "back") == 5
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(files)


def test_a_name_that_is_too_long(tmp_path):
    assert decode(codes_of(tmp_path, [8, 8], ["a.wav", "x" * 300]), tmp_path / "back") == 2
    short, name = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert (short, name[:100]) == ("a.wav", "x" * 100)
    assert len(name) <= 255


def test_loud_audio_is_clipped_and_not_wrapped(tmp_path):
    class Loud(AudioTokenizer):
        def stream(self, codes, speakers, samples=None, numbers=None, done=()):
            for index, blocks in super().stream(codes, speakers, samples, numbers, done):
                yield index, (np.where(block > 0, 3, -3).astype(np.float32) for block in blocks)

    loud = Loud(FakeSpeechEngine())
    decode_speech(loud, codes_of(tmp_path, [400]), tmp_path / "back")
    assert set(samples(tmp_path / "back/0.wav").tolist()) == {-32767, 32767}


def test_a_crash_leaves_no_folder(tmp_path):
    calls = itertools.count()

    def crash(*_):
        if next(calls) == 2:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        decode(codes_of(tmp_path, LONG), tmp_path / "back", before=crash)
    assert tree(tmp_path) == []


def test_decode_progress(tmp_path):
    calls = []
    codes = codes_of(tmp_path, [50, 500, 50])
    decode(codes, tmp_path / "back", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_long_clip_is_decoded_in_flat_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(speech_tokenizer, "CHUNK_SAMPLES", 1000 * STRIDE)

    def peak(length: int) -> int:
        codes = codes_of(tmp_path, [length])
        tracemalloc.start()
        decode(codes, tmp_path / "back")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        shutil.rmtree(tmp_path / "back")
        return most

    peak(10_000)
    assert peak(1_000_000) - peak(50_000) < 500_000


def test_an_interrupted_decode_equals_an_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_writer, "_COMMIT_SECONDS", -1)
    # Of one clip each.
    monkeypatch.setattr(speech_tokenizer, "CALL_SAMPLES", 1)
    codes, back = codes_of(tmp_path, [400, 8, 1600, 90, 33]), tmp_path / "back"
    decode(codes, tmp_path / "whole")
    journal = tmp_path / "back.partial/.vqtrt.jsonl"

    def crash(*_):
        if journal.read_bytes().count(b"\n") > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        decode(codes, back, before=crash)
    assert "files are kept in" in caught.value.__notes__[0]
    assert not back.exists()
    told: list[int] = []
    assert decode(codes, back, resume=True, resumed=told.append) == 5
    assert 0 < told[0] < 5
    assert wavs(back) == wavs(tmp_path / "whole")

    def work(*_):
        raise AssertionError("decodes again")

    assert decode(codes, back, before=work, resume=True, resumed=told.append) == 5
    assert told[1:] == [5]
    with pytest.raises(VqtrtError, match=r"the job's speakers changed since it was begun"):
        decode(codes, back, before=work, resume=True, speaker="cy")


def wavs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_encode_is_not_done_again(out):
    def work(*_):
        raise AssertionError("encodes again")

    encode(FakeSpeech([50, 400, 7], bad=[2]), out, on_error="skip")
    before = out.stat().st_mtime_ns
    engine = FakeSpeechEngine(before=work)
    result = encode(FakeSpeech([50, 400, 7], bad=[2]), out, engine=engine, resume=True)
    assert result[:4] == (out, 2, 1, 3)
    assert out.stat().st_mtime_ns == before
    with pytest.raises(VqtrtError, match="the data's list of files changed"):
        encode(FakeSpeech([50, 400]), out, engine=engine, resume=True)
