import itertools
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from doubles import tree
from speech_doubles import RATE, STRIDE, FakeSpeech, FakeSpeechEngine, noise
from speech_jobs import LENGTHS, PARTIAL, encode, left

from vqtrt.audio import chunks
from vqtrt.data.audio.clips import MOST_OPEN
from vqtrt.data.audio.decode import AudioPreprocessing, read_audio
from vqtrt.data.audio.folder import AudioFolder
from vqtrt.data.source import Item
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.formats.audio_codes import read_clip_codes
from vqtrt.jobs import encode as encode_job
from vqtrt.jobs.encode import list_source


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 30 * STRIDE)
    monkeypatch.setattr(chunks, "CALL_SAMPLES", 10 * 36 * STRIDE)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def expected(index: int, lengths=LENGTHS) -> np.ndarray:
    audio = noise(index, lengths[index])
    padded = np.pad(audio, (0, -len(audio) % STRIDE))
    return FakeSpeechEngine().encoder(padded[None])[0]


BOTH = ["codes.json", "codes.npy"]


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
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
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
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", seconds)
    with pytest.raises(VqtrtError, match="none of its 4 files is a recording that can be read"):
        encode(FakeSpeech([10, 500, 20, 30], bad=range(4)), out, on_error="skip")
    assert left(out) == []


@pytest.mark.parametrize("when", ["read", "engine"])
@pytest.mark.parametrize("error", [RuntimeError("crash"), KeyboardInterrupt()])
def test_a_job_that_was_broken_off_equals_an_unbroken_one(out, monkeypatch, when, error):
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
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
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
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
        encode(AudioFolder(folder), out)
    result = encode(AudioFolder(folder), out, on_error="skip")
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
        with pytest.raises(VqtrtError, match=r"is inside .*voices, .*give --out a path outside"):
            encode(AudioFolder(folder), out)
    assert tree(folder) == before
    encode(AudioFolder(folder), tmp_path / "codes.npy")
    # Beside a single recording there is room.
    result = encode(AudioFolder(folder / "zz.flac"), folder / "zz.npy")
    assert (result.rows, read_clip_codes(folder / "zz.npy").files) == (1, ("zz.flac",))


def test_long_recordings_are_committed_one_by_one(out, monkeypatch):
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
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
    monkeypatch.setattr("vqtrt.audio.encode._WHOLE", 1)
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
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 1000 * STRIDE)

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
