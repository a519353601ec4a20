from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from doubles import tree
from speech_doubles import RATE, STRIDE, FakeSpeech, FakeSpeechEngine, noise

from vqtrt.audio import chunks
from vqtrt.audio.convert import convert_source, encode_all
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.audio.decode import AudioPreprocessing, read_audio
from vqtrt.data.audio.folder import AudioFolder
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.formats import folder_writer

LENGTHS = [60, 900, 7, 300, 1, 145, 144, 33, 1500, 20]
"""Samples of ten recordings; a chunk is 144, so that four of them stream."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 30 * STRIDE)


def convert(source, out: Path, *, batch_size: int = 2, engine=None, **options):
    settings: dict[str, Any] = {"root": "voices", "speaker": "cy", "workers": 2} | options
    tokenizer = AudioTokenizer(engine or FakeSpeechEngine(), batch_size=batch_size)
    return convert_source(tokenizer, source, out, **settings)


def codes_of(audio: np.ndarray) -> np.ndarray:
    padded = np.pad(audio, (0, -len(audio) % STRIDE))
    return FakeSpeechEngine().encoder(padded[None])[0]


def spoken(audio: np.ndarray, speaker: int) -> np.ndarray:
    """The audio as the speaker, in 16-bit levels."""
    made = FakeSpeechEngine().decoder(codes_of(audio)[None], np.array([speaker]))[0]
    return np.rint(made[: len(audio)] * 32767).astype(np.int16)


def read(path: Path) -> np.ndarray:
    levels, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return levels


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_recording_in_the_voice(tmp_path, batch_size):
    out = tmp_path / "out"
    result = convert(FakeSpeech(LENGTHS), out, batch_size=batch_size)
    assert result == (out, 10, ())
    assert tree(out) == [f"{index:06}.wav" for index in range(10)]
    for index, samples in enumerate(LENGTHS):
        expected = spoken(noise(index, samples), 2)
        np.testing.assert_array_equal(read(out / f"{index:06}.wav"), expected)


def test_one_recording_becomes_one_file(tmp_path):
    for samples in (100, 1500):
        path, out = tmp_path / "in.wav", tmp_path / f"{samples}.wav"
        soundfile.write(path, noise(3, samples), RATE, "PCM_16")
        assert convert(AudioFolder(path), out, root=str(path), speaker="ann") == (out, 1, ())
        audio = read_audio(path, AudioPreprocessing(sample_rate=RATE))
        np.testing.assert_array_equal(read(out), spoken(audio, 0))
    assert tree(tmp_path) == ["100.wav", "1500.wav", "in.wav"]


def test_a_name_that_grows_too_long_is_shortened(tmp_path: Path) -> None:
    stem = "n" * 250
    (tmp_path / "in").mkdir()
    for suffix in (".flac", ".wav"):  # the second would become .wav.wav
        soundfile.write(tmp_path / "in" / f"{stem}{suffix}", noise(3, 100), RATE, "PCM_16")
    told: list[str] = []
    source = AudioFolder(tmp_path / "in")
    assert convert(source, tmp_path / "out", note=told.append).recordings == 2
    written = tree(tmp_path / "out")
    assert f"{stem}.wav" in written
    assert len(written) == 2
    assert len(told) == 1


def test_a_folder_of_one_recording_becomes_a_folder(tmp_path):
    folder = tmp_path / "in" / "ann"
    folder.mkdir(parents=True)
    soundfile.write(folder / "1.flac", noise(3, 100), RATE, "PCM_16")
    convert(AudioFolder(tmp_path / "in"), tmp_path / "out")
    assert tree(tmp_path / "out") == ["ann", "ann/1.wav"]


def test_at_another_level(tmp_path):
    how = AudioPreprocessing(sample_rate=RATE, level_db=-20)
    convert(FakeSpeech([60]), tmp_path / "out", preprocessing=how)
    # The stand-in halves what is to be brought to a level.
    expected = spoken(noise(0, 60) / 2, 2)
    np.testing.assert_array_equal(read(tmp_path / "out" / "000000.wav"), expected)


def test_stops_at_what_cannot_be_read(tmp_path):
    with pytest.raises(AudioError, match=r"000004\.wav: not a recording"):
        convert(FakeSpeech(LENGTHS, [4, 8]), tmp_path / "out")
    assert tree(tmp_path) == []


def test_passes_over_what_cannot_be_read(tmp_path):
    calls = []
    result = convert(
        FakeSpeech(LENGTHS, [4, 8]),
        tmp_path / "out",
        on_error="skip",
        progress=lambda *call: calls.append(call),
    )
    assert result.recordings == 8
    assert [name for name, _ in result.rejected] == ["000004.wav", "000008.wav"]
    assert "not a recording that can be read" in result.rejected[0][1]
    kept = [index for index in range(10) if index not in (4, 8)]
    assert tree(tmp_path / "out") == [f"{index:06}.wav" for index in kept]
    # Once for its codes and once for its audio.
    assert calls == sorted(calls)
    assert {total for _, total in calls} == {20}
    assert calls[-1] == (20, 20)


def test_nothing_that_can_be_read(tmp_path):
    with pytest.raises(VqtrtError, match="voices: none of its 2 files is a recording"):
        convert(FakeSpeech([5, 6], [0, 1]), tmp_path / "out", on_error="skip")
    assert tree(tmp_path) == []


def test_codes_in_memory():
    encoded = encode_all(
        AudioTokenizer(FakeSpeechEngine(), batch_size=3),
        FakeSpeech(LENGTHS, [1]),
        root="voices",
        workers=2,
        on_error="skip",
    )
    kept = [index for index in range(10) if index != 1]
    assert [item.key for item in encoded.items] == kept
    assert encoded.codes.samples == tuple(LENGTHS[index] for index in kept)
    assert encoded.codes.files == tuple(f"{index:06}.wav" for index in kept)
    for place, index in enumerate(kept):
        expected = codes_of(noise(index, LENGTHS[index]))
        np.testing.assert_array_equal(encoded.codes.clip(place), expected)


# What is known before any work


@pytest.fixture
def untouched():
    """A source that must not be read."""

    def fail(item, block):
        raise AssertionError(item)

    return FakeSpeech([60], before=fail)


@pytest.fixture
def one(tmp_path) -> AudioFolder:
    soundfile.write(tmp_path / "in.wav", noise(0, 100), RATE, "PCM_16")
    return AudioFolder(tmp_path / "in.wav")


def test_an_unknown_speaker(tmp_path, untouched):
    with pytest.raises(VqtrtError, match=r"speaker zoe: unknown.* it knows ann, bob, cy"):
        convert(untouched, tmp_path / "out", speaker="zoe")


def test_a_file_for_several(tmp_path, untouched):
    (tmp_path / "out").write_text("hello")
    with pytest.raises(VqtrtError, match="is a file; several recordings need a folder"):
        convert(untouched, tmp_path / "out")


def test_a_folder_among_the_recordings(tmp_path, one):
    source = AudioFolder(tmp_path)
    for out in (tmp_path, tmp_path / "new"):
        with pytest.raises(VqtrtError, match="whose files are encoded"):
            convert(source, out)
    assert tree(tmp_path) == ["in.wav"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out", r"--out must end in \.wav"),
        (".", r"--out must end in \.wav"),
        ("out.mp3", r"--out must end in \.wav"),
        ("nope/out.wav", "nope: no such folder; create it first"),
        ("in.wav", "is the recording itself"),
    ],
)
def test_no_file_for_one(tmp_path, one, out, message):
    with pytest.raises(VqtrtError, match=message):
        convert(one, tmp_path / out, root=str(tmp_path / "in.wav"))
    assert tree(tmp_path) == ["in.wav"]


def test_an_interrupted_conversion_equals_an_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_writer, "_COMMIT_SECONDS", -1)
    monkeypatch.setattr(chunks, "CALL_SAMPLES", 1)
    convert(FakeSpeech(LENGTHS), tmp_path / "whole")

    journal = tmp_path / "out.partial/.vqtrt.jsonl"

    def crash(name, array):
        if name == "decoder" and journal.read_bytes().count(b"\n") > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(FakeSpeech(LENGTHS), tmp_path / "out", engine=FakeSpeechEngine(before=crash))
    told: list[int] = []
    convert(FakeSpeech(LENGTHS), tmp_path / "out", resume=True, resumed=told.append)
    assert 0 < told[0] < len(LENGTHS)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_place_that_cannot_be_written_is_seen_before_the_work(tmp_path):
    def work(*_):
        raise AssertionError("encodes")

    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/out"):
        with pytest.raises(VqtrtError, match="file"):
            convert(FakeSpeech(LENGTHS), out, engine=FakeSpeechEngine(before=work))
