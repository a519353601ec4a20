import errno
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from pydantic import ValidationError

from vqtrt.data.audio import decode as audio_module
from vqtrt.data.audio.decode import (
    AudioPreprocessing,
    audio_length,
    read_audio,
    read_blocks,
    write_blocks,
    write_wav,
)
from vqtrt.errors import AudioError, VqtrtError

SAME = AudioPreprocessing(sample_rate=8000)


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Samples (n,) or (n, c) on the grid of 16 bits."""
    shape = samples if channels == 1 else (samples, channels)
    return np.random.default_rng(seed).integers(-9000, 9000, shape) / np.float32(32768)


def put(path: Path, samples: np.ndarray, rate: int = 8000, form: str = "WAV", sub: str = "PCM_16"):
    soundfile.write(path, samples, rate, sub, format=form)
    return path


def fails(path: Path, message: str, preprocessing: AudioPreprocessing = SAME) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path, preprocessing)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_settings_are_bounded():
    for wrong in ({"sample_rate": 999}, {"sample_rate": 192001}, {"level_db": 1}, {"other": 1}):
        with pytest.raises(ValidationError):
            AudioPreprocessing(**wrong)
    assert AudioPreprocessing() == AudioPreprocessing(sample_rate=16000, level_db=None)


# formats


@pytest.mark.parametrize(
    ("form", "sub", "exact"),
    [
        ("WAV", "PCM_16", True),
        ("WAV", "PCM_24", True),
        ("WAV", "FLOAT", True),
        ("WAV", "ULAW", False),
        ("FLAC", "PCM_16", True),
        ("AIFF", "PCM_16", True),
        ("W64", "PCM_16", True),
        ("OGG", "VORBIS", False),
        ("OGG", "OPUS", False),
        ("MP3", "MPEG_LAYER_III", False),
    ],
)
def test_formats_whatever_their_name(tmp_path, form, sub, exact):
    t = np.arange(20000) / 8000
    wanted = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    wanted = np.rint(wanted * 32768).astype(np.float32) / 32768
    path = put(tmp_path / "a.wav", wanted, form=form, sub=sub)
    found = read_audio(path, SAME)
    assert found.dtype == np.float32
    assert len(found) == len(wanted)
    if exact:
        np.testing.assert_array_equal(found, wanted)
    else:
        assert np.corrcoef(found, wanted)[0, 1] > 0.99
    assert audio_length(path, SAME) == len(wanted)


def test_channels_are_mixed(tmp_path):
    stereo = noise(5000, 2)
    path = put(tmp_path / "a.wav", stereo)
    np.testing.assert_array_equal(read_audio(path, SAME), stereo.mean(1, dtype=np.float32))


def test_a_96_khz_file_of_8_channels(tmp_path):
    many = noise(96000, 8)
    path = put(tmp_path / "a.wav", many, rate=96000, sub="PCM_24")
    found = read_audio(path, AudioPreprocessing(sample_rate=16000))
    mono = many.mean(1, dtype=np.float32)
    np.testing.assert_allclose(found, soxr.resample(mono, 96000, 16000, "HQ"), atol=1e-6)


@pytest.mark.parametrize(("rate", "wanted"), [(8000, 16000), (44100, 16000), (48000, 8000)])
def test_resampling_keeps_a_tone(tmp_path, rate, wanted):
    t = np.arange(rate) / rate
    path = put(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), rate, sub="FLOAT")
    preprocessing = AudioPreprocessing(sample_rate=wanted)
    found = read_audio(path, preprocessing)
    assert abs(len(found) - wanted) <= 1
    assert abs(audio_length(path, preprocessing) - len(found)) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(found)) / wanted)
    inner = slice(200, -200)
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-3)


# blocks


@pytest.mark.parametrize(
    ("rate", "level"), [(8000, None), (11025, None), (16000, None), (8000, -30.0)]
)
def test_blocks_are_the_whole_bit_for_bit(tmp_path, rate, level):
    path = put(tmp_path / "a.flac", noise(200_000), rate, "FLAC")
    preprocessing = AudioPreprocessing(sample_rate=8000, level_db=level)
    blocks = list(read_blocks(path, preprocessing))
    assert len(blocks) > 2
    assert all(len(block) and block.dtype == np.float32 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(path, preprocessing))


@pytest.mark.parametrize("rate", [8000, 11025])
def test_block_size_changes_nothing_that_matters(tmp_path, monkeypatch, rate):
    path = put(tmp_path / "a.wav", noise(30_000), rate)
    whole = read_audio(path, SAME)
    monkeypatch.setattr(audio_module, "_BLOCK_FRAMES", 777)
    np.testing.assert_array_equal(read_audio(path, SAME), whole)


def test_mp3_in_blocks_is_the_whole(tmp_path, monkeypatch):
    path = put(tmp_path / "a.mp3", noise(60_000), form="MP3", sub="MPEG_LAYER_III")
    whole = read_audio(path, SAME)
    monkeypatch.setattr(audio_module, "_BLOCK_FRAMES", 5000)
    np.testing.assert_array_equal(read_audio(path, SAME), whole)


def test_a_long_file_takes_no_more_memory(tmp_path):
    def peak(seconds: int) -> int:
        path = put(
            tmp_path / f"{seconds}.flac", np.zeros(48000 * seconds, np.float32), 48000, "FLAC"
        )
        tracemalloc.start()
        try:
            assert sum(map(len, read_blocks(path, SAME))) == 8000 * seconds
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short, long = peak(10), peak(200)
    assert long < short + 100_000


def test_one_sample(tmp_path):
    path = put(tmp_path / "a.wav", np.array([0.5], np.float32))
    assert read_audio(path, SAME).tolist() == [0.5]


def test_too_short_to_be_resampled(tmp_path):
    path = put(tmp_path / "a.wav", np.array([0.5], np.float32), 192000)
    fails(path, "is too short to be brought to 1000 Hz", AudioPreprocessing(sample_rate=1000))


def test_very_long_is_not_read_whole(tmp_path, monkeypatch):
    path = put(tmp_path / "a.wav", noise(5000))
    monkeypatch.setattr(audio_module, "_WHOLE", 4000)
    fails(path, "is longer than 0 hours; split it")
    assert sum(map(len, read_blocks(path, SAME))) == 5000


# level


@pytest.mark.parametrize("level", [-40.0, -20.0, -6.0])
def test_loudness_is_brought_to_a_level(tmp_path, level):
    samples = noise(150_000)
    path = put(tmp_path / "a.wav", samples)
    found = read_audio(path, AudioPreprocessing(sample_rate=8000, level_db=level))
    rms = np.sqrt(np.square(found, dtype=np.float64).mean())
    assert 20 * np.log10(rms) == pytest.approx(level, abs=1e-3)
    assert np.corrcoef(found, samples)[0, 1] == pytest.approx(1)


def test_silence_stays_silent(tmp_path):
    path = put(tmp_path / "a.wav", np.zeros(1000, np.float32))
    assert not read_audio(path, AudioPreprocessing(sample_rate=8000, level_db=-20)).any()


# channels that cancel


def speech(samples: int) -> np.ndarray:
    t = np.arange(samples) / 8000
    return (0.3 * np.sin(2 * np.pi * 440 * t) * np.sin(3 * t)).astype(np.float32)


@pytest.mark.parametrize("other", [-1.0, -0.98, -1.02])
@pytest.mark.parametrize(
    "preprocessing", [SAME, AudioPreprocessing(sample_rate=8000, level_db=-20)]
)
def test_channels_that_cancel_are_refused(
    tmp_path: Path, other: float, preprocessing: AudioPreprocessing
) -> None:
    left = speech(150_000)
    path = put(tmp_path / "a.wav", np.stack([left, other * left], 1), sub="FLOAT")
    fails(
        path, "its 2 channels cancel out: their mix is .*; keep one: ffmpeg -i a.wav", preprocessing
    )
    with pytest.raises(AudioError, match="cancel out"):
        list(read_blocks(path, preprocessing))


@pytest.mark.parametrize("channels", [2, 8, 64])
def test_channels_that_do_not_cancel(tmp_path: Path, channels: int) -> None:
    voice = speech(20_000)
    # One voice among silent channels, voices by themselves, one half as loud upside down, silence.
    alone = np.zeros((len(voice), channels), np.float32)
    alone[:, -1] = voice
    upside = np.zeros_like(alone)
    upside[:, 0], upside[:, 1] = voice, -voice / 2
    quiet = np.full_like(alone, 1e-6) * np.where(np.arange(channels) % 2, 1, -1)
    for each in (alone, noise(20_000, channels), upside, np.zeros_like(alone), quiet):
        path = put(tmp_path / "a.wav", each.astype(np.float32), sub="FLOAT")
        expected = each.mean(1, dtype=np.float32)
        np.testing.assert_allclose(read_audio(path, SAME), expected, atol=1e-7)


def test_a_beginning_that_cancels_is_not_the_whole(tmp_path: Path) -> None:
    left = speech(150_000)
    right = np.where(np.arange(150_000) < 100_000, -left, left)
    path = put(tmp_path / "a.wav", np.stack([left, right], 1))
    assert len(read_audio(path, SAME)) == 150_000


# what cannot be read


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


def test_rates_that_lie_far_apart_take_no_more_memory(tmp_path):
    path = put(tmp_path / "a.wav", noise(20_000), 100)
    longest = max(map(len, read_blocks(path, AudioPreprocessing(sample_rate=192_000))))
    assert longest < 1 << 21
    assert audio_length(path, AudioPreprocessing(sample_rate=192_000)) == 1920 * 20_000


# writing


def test_write_and_read_back(tmp_path):
    samples = np.array([-1.5, -1, -0.5, 0, 1e-6, 0.25, 1, 7], np.float32)
    path = tmp_path / "deep/er/a.wav"
    write_wav(path, samples, 22050)
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.samplerate) == ("WAV", "PCM_16", 22050)
    levels, _ = soundfile.read(path, dtype="int16")
    assert levels.tolist() == [-32767, -32767, -16384, 0, 0, 8192, 32767, 32767]
    assert [file.name for file in path.parent.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    ("samples", "written"), [(None, 100), (100, 100), (61, 61), (60, 60), (1, 1)]
)
def test_blocks_are_cut_to_the_samples_wanted(tmp_path, samples, written):
    whole = noise(100)
    blocks = iter([whole[:60], whole[60:60], whole[60:]])
    write_blocks(tmp_path / "deep/a.wav", blocks, samples, 8000)
    write_wav(tmp_path / "b.wav", whole[:written], 8000)
    assert (tmp_path / "deep/a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert next(blocks, None) is None


def test_more_than_a_wav_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_module, "_WAV_SAMPLES", 99)
    write_blocks(tmp_path / "a.wav", [noise(60), noise(60)], 99, 8000)
    assert soundfile.info(tmp_path / "a.wav").frames == 99
    with pytest.raises(VqtrtError, match="more than the 99 samples that a wav holds"):
        write_wav(tmp_path / "b.wav", noise(100), 8000)
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_wav(path, noise(10), 8000)
    before = path.read_bytes()
    with pytest.raises(VqtrtError, match="not numbers"):
        write_wav(path, np.array([0, np.nan], np.float32), 8000)

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(VqtrtError, match="No space left on"):
        write_wav(path, noise(20), 8000)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_a_file_where_a_folder_has_to_be(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(VqtrtError, match="a file is where a folder has to be"):
        write_wav(tmp_path / "a/b.wav", noise(10), 8000)


def test_nothing_heavy_is_loaded_with_the_module():
    code = (
        "import sys, vqtrt.data.audio.decode, vqtrt.data.audio.open, vqtrt.data.audio.waveforms\n"
        "print(sorted({'soundfile', 'soxr', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
