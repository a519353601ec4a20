import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import SAME, fails, noise, put

from vqtrt.data.audio.decode import (
    AudioPreprocessing,
    audio_length,
    read_audio,
    read_blocks,
    write_wav,
)
from vqtrt.errors import AudioError, VqtrtError


def test_no_samples(tmp_path):
    fails(put(tmp_path / "a.wav", np.zeros(0, np.float32)), "holds no samples")
    (tmp_path / "b.wav").touch()
    fails(tmp_path / "b.wav", "is empty")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 32767.0, 3e38])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_none(tmp_path, value, channels):
    samples = noise(70_000, channels)
    samples[66_000] = value
    path = put(tmp_path / "a.wav", samples, sub="FLOAT")
    fails(path, r"sample 66000 is (nan|-?inf|32767|3e\+38); samples are finite")
    fails(path, "sample 66000", AudioPreprocessing(sample_rate=16000, level_db=-20))


def test_infinities_that_cancel(tmp_path):
    samples = noise(100, 2)
    samples[5] = np.inf, -np.inf
    fails(put(tmp_path / "a.wav", samples, sub="FLOAT"), "sample 5 is nan")


@pytest.mark.parametrize("data", [b"RIFF", b"no audio " * 100, b"\0" * 5000, b"<html></html>"])
def test_not_audio(tmp_path, data):
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    fails(path, "is no audio that can be read, or is damaged")


def test_raw_has_no_header(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(b"\1\2" * 100)
    fails(path, "is no audio that can be read")


def test_missing_and_odd_files(tmp_path):
    fails(tmp_path / "none.wav", "no such file")
    fails(tmp_path, "cannot be read .Is a directory")
    os.mkfifo(tmp_path / "pipe.wav")
    fails(tmp_path / "pipe.wav", "it is a pipe, not a regular file")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    fails(tmp_path / "zero.wav", "it is a device, not a regular file")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "none.wav")
    fails(tmp_path / "gone.wav", "no such file")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = put(tmp_path / "a.wav", noise(10))

    def denied(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    fails(path, "cannot be read .Permission denied")


def test_too_many_open_files_are_not_the_recordings_fault(tmp_path, monkeypatch):
    path = put(tmp_path / "a.wav", noise(10))

    def exhausted(*args, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(VqtrtError, match="ulimit") as caught:
        read_audio(path, SAME)
    assert not isinstance(caught.value, AudioError)


@pytest.mark.parametrize("form", ["FLAC", "WAV", "AIFF", "W64", "RF64"])
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_cut_off(tmp_path, form, share):
    path = put(tmp_path / "a", noise(100_000), form=form)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    fails(path, "is damaged")


def test_damage_within_a_flac(tmp_path):
    path = put(tmp_path / "a.flac", noise(200_000), form="FLAC")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 5000] = bytes(5000)
    path.write_bytes(data)
    fails(path, "is damaged")
    # What comes before can be had; the error ends the blocks.
    with pytest.raises(AudioError):
        list(read_blocks(path, SAME))


def flac_of_length(path: Path, samples: np.ndarray, claimed: int) -> Path:
    """A FLAC whose header claims some number of samples; 0 leaves it open."""
    put(path, samples, form="FLAC")
    data = bytearray(path.read_bytes())
    # STREAMINFO: 36 bits at the end of the eight bytes that begin with the sample rate.
    head = int.from_bytes(data[18:26], "big") >> 36 << 36
    data[18:26] = (head | claimed).to_bytes(8, "big")
    path.write_bytes(data)
    return path


def test_a_flac_of_open_length(tmp_path):
    samples = noise(100_000)
    path = flac_of_length(tmp_path / "a.flac", samples, 0)
    np.testing.assert_array_equal(read_audio(path, SAME), samples)
    assert audio_length(path, SAME) == 100_000


def test_a_wav_of_open_length(tmp_path):
    samples = noise(1000)
    path = put(tmp_path / "a.wav", samples)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    np.testing.assert_array_equal(read_audio(path, SAME), samples)


def test_claims_are_bounded(tmp_path):
    fails(flac_of_length(tmp_path / "a.flac", noise(1000), 2**36 - 1), "claims 68719476735 samples")
    with pytest.raises(AudioError, match="claims 68719476735 samples"):
        audio_length(tmp_path / "a.flac", SAME)
    fails(flac_of_length(tmp_path / "b.flac", noise(1000), 100_000), "ends after 1000 of 100000")
    many = put(tmp_path / "c.wav", noise(10, 65))
    fails(many, "claims 65 channels at 8000 Hz; up to 64")
    data = bytearray(put(tmp_path / "d.wav", noise(10)).read_bytes())
    data[24:28] = (2_000_000_000).to_bytes(4, "little")
    (tmp_path / "d.wav").write_bytes(data)
    fails(tmp_path / "d.wav", "claims 1 channels at 2000000000 Hz")


@pytest.mark.parametrize(
    ("name", "form", "sub"), [("a.mp3", "MP3", "MPEG_LAYER_III"), ("a.opus", "OGG", "OPUS")]
)
def test_an_old_libsndfile_is_named(tmp_path, monkeypatch, name, form, sub):
    path = put(tmp_path / name, noise(8000), form=form, sub=sub)

    def refuse(*args, **options):
        raise soundfile.LibsndfileError(1, "Error opening: ")

    monkeypatch.setattr(soundfile, "SoundFile", refuse)
    fails(path, "is no audio")
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": ""})
    monkeypatch.setattr(soundfile, "available_subtypes", lambda form: {"VORBIS": ""})
    fails(path, rf"libsndfile \S+ reads no {name[2:]}.*vqtrt\[speech\]")


def test_names_are_shown_on_one_line(tmp_path):
    path = tmp_path / "a\n\x1b[31mb.wav"
    path.write_bytes(b"nothing")
    with pytest.raises(AudioError) as caught:
        read_audio(path, SAME)
    assert str(caught.value).isprintable()


def test_a_name_that_is_not_utf8(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.wav"))
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    write_wav(path, noise(100), 8000)
    assert len(read_audio(path, SAME)) == 100
