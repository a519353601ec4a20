import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soxr
from pydantic import ValidationError
from recordings import SAME, fails, noise, put

from vqtrt.data.audio import decode as audio_module
from vqtrt.data.audio.decode import AudioPreprocessing, audio_length, read_audio, read_blocks
from vqtrt.errors import AudioError


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


def test_rates_that_lie_far_apart_take_no_more_memory(tmp_path):
    path = put(tmp_path / "a.wav", noise(20_000), 100)
    longest = max(map(len, read_blocks(path, AudioPreprocessing(sample_rate=192_000))))
    assert longest < 1 << 21
    assert audio_length(path, AudioPreprocessing(sample_rate=192_000)) == 1920 * 20_000


def test_nothing_heavy_is_loaded_with_the_module():
    code = (
        "import sys, vqtrt.data.audio.decode, vqtrt.data.audio.open, vqtrt.data.audio.waveforms\n"
        "print(sorted({'soundfile', 'soxr', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
