import itertools
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from doubles import tree
from speech_doubles import STRIDE, FakeSpeech, FakeSpeechEngine
from speech_jobs import LENGTHS, codes_of, decode, encode, samples, wanted

from vqtrt.audio import chunks
from vqtrt.audio.decode import decode_codes
from vqtrt.audio.speakers import speaker_number, speaker_numbers
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.errors import VqtrtError
from vqtrt.formats import folder_writer
from vqtrt.formats.audio_codes import read_clip_codes


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 30 * STRIDE)
    monkeypatch.setattr(chunks, "CALL_SAMPLES", 10 * 36 * STRIDE)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


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
        def stream(self, codes, speakers, done=(), **how):
            for index, blocks in super().stream(codes, speakers, done, **how):
                yield index, (np.where(block > 0, 3, -3).astype(np.float32) for block in blocks)

    loud = Loud(FakeSpeechEngine())
    decode_codes(loud, codes_of(tmp_path, [400]), tmp_path / "back")
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
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 1000 * STRIDE)

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
    monkeypatch.setattr(chunks, "CALL_SAMPLES", 1)
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
