"""What libsndfile can write is what is tried: whole, cut off, joined, and with tags behind it."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import APE, ID3V1, ID3V2, SAME, encoded, refused, tone, write

from vqtrt.data.audio.decode import audio_length, read_audio, read_blocks
from vqtrt.data.audio.recording import UNKNOWN, Recording
from vqtrt.errors import AudioError

NOT_READ = {"RAW", "SD2"}
"""Without a header; with a header in a file of its own."""
UNTOLD = {"PAF", "PVF", "IRCAM", "XI"}
"""Formats whose headers do not say how much there is."""
ODD_RATE = {"WVE", "XI"}
"""Which libsndfile writes for one rate only, whatever it is told."""
JOINED = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "VOC", "SVX", "FLAC", "MP3"]


def both(tmp_path: Path, form: str, sub: str | None = None) -> tuple[bytes, bytes, np.ndarray]:
    """Two files' bytes and what is read of the two, one after the other."""
    # The first is whole blocks of a FLAC, at whose end libsndfile looks no further.
    parts = [encoded(tone(8192), form, sub), encoded(tone(5000, 880), form, sub)]
    alone = [read_audio(write(tmp_path / "alone", part), SAME) for part in parts]
    assert [len(audio) for audio in alone] == [8192, 5000]
    return parts[0], parts[1], np.concatenate(alone)


# cut off


MONO = {"HTK", "SDS", "SVX", "WVE", "XI"}
"""Formats that libsndfile writes with one channel only."""


@pytest.mark.parametrize(
    ("form", "channels"),
    [
        (form, channels)
        for form in sorted(set(soundfile.available_formats()) - NOT_READ)
        for channels in ((1,) if form in MONO else (1, 2))
    ],
)
def test_every_format_cut_in_half(tmp_path: Path, form: str, channels: int) -> None:
    data = encoded(tone(8192) if channels == 1 else np.stack([tone(8192)] * 2, 1), form)
    whole = read_audio(write(tmp_path / "a.wav", data), SAME)
    if form not in ODD_RATE:
        assert len(whole) == audio_length(tmp_path / "a.wav", SAME) == 8192
    for cut in (len(data) // 2, len(data) * 3 // 4):
        path = write(tmp_path / "cut.wav", data[:cut])
        if form in UNTOLD:
            assert 0 < len(read_audio(path, SAME)) < len(whole)
        else:
            refused(path, "is damaged")
            with pytest.raises(AudioError):
                list(read_blocks(path, SAME))


@pytest.mark.parametrize("sub", ["VORBIS", "OPUS"])
def test_an_ogg_that_was_cut_off(tmp_path: Path, sub: str) -> None:
    data = encoded(tone(30_000), "OGG", sub)
    for cut in (len(data) - 1, len(data) // 2, data.rfind(b"OggS") + 4, data.rfind(b"OggS")):
        refused(write(tmp_path / "a.ogg", data[:cut]), "cut off, or was never finished")


def test_a_sphere_says_how_much_is_there(tmp_path: Path) -> None:
    data = encoded(tone(8192), "NIST")
    refused(write(tmp_path / "SA1.WAV", data[:-2]), "cut off: 8191 of 8192 samples are there")
    # Fields that are no numbers, or missing, say nothing.
    for old, new in ((b"8192", b"many"), (b"sample_count", b"other_things")):
        path = write(tmp_path / "SA1.WAV", data[:-100].replace(old, new, 1))
        assert len(read_audio(path, SAME)) == 8192 - 50


def test_sizes_that_were_not_known_yet(tmp_path: Path) -> None:
    au = bytearray(encoded(tone(1000), "AU"))
    au[8:12] = b"\xff" * 4
    assert len(read_audio(write(tmp_path / "a.au", bytes(au)), SAME)) == 1000


@pytest.mark.parametrize("name", ["a.au", "a.snd", "a.vox", "a.gsm", "a.raw", "a.sph", "a.mp3"])
def test_junk_is_no_audio_whatever_its_name(tmp_path: Path, name: str) -> None:
    refused(write(tmp_path / name, b"\1\2junk" * 1000), "no audio that can be read")


# one after the other


@pytest.mark.parametrize("form", JOINED)
def test_joined_files_are_read_whole(tmp_path: Path, form: str) -> None:
    first, second, expected = both(tmp_path, form)
    for between in (b"", ID3V1, APE, APE + ID3V1, bytes(3000)):
        path = write(tmp_path / "joined", first, between, second)
        np.testing.assert_array_equal(read_audio(path, SAME), expected)
        assert audio_length(path, SAME) == len(expected)


@pytest.mark.parametrize("sub", ["VORBIS", "OPUS"])
def test_chained_ogg_is_read_whole(tmp_path: Path, sub: str) -> None:
    first, second, expected = both(tmp_path, "OGG", sub)
    for between in (b"", ID3V1, b"junk" * 100):
        path = write(tmp_path / "a.ogg", first, between, second, first)
        found = read_audio(path, SAME)
        np.testing.assert_array_equal(found, np.concatenate([expected, expected[:8192]]))
        assert audio_length(path, SAME) == len(found)
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, SAME))), found)


@pytest.mark.parametrize("form", ["MP3", "FLAC", "WAV"])
def test_an_id3v2_tag_belongs_to_what_follows(tmp_path: Path, form: str) -> None:
    first, second, expected = both(tmp_path, form)
    path = write(tmp_path / "joined", ID3V2, first, ID3V1, ID3V2, second, ID3V1)
    np.testing.assert_array_equal(read_audio(path, SAME), expected)


def test_formats_may_be_mixed(tmp_path: Path) -> None:
    forms = ["WAV", "FLAC", "AIFF", "MP3", "OGG"]
    parts = [encoded(tone(4000, 100 * i + 100), form) for i, form in enumerate(forms)]
    # Nothing tells where a FLAC ends: what follows has to be one.
    parts = [parts[0], parts[2], parts[3], parts[4], parts[0], parts[1]]
    alone = [read_audio(write(tmp_path / "alone", part), SAME) for part in parts]
    found = read_audio(write(tmp_path / "joined", *parts), SAME)
    np.testing.assert_array_equal(found, np.concatenate(alone))


@pytest.mark.parametrize("form", [*JOINED, "OGG"])
@pytest.mark.parametrize("behind", [ID3V1, APE, APE + ID3V1, bytes(700)])
def test_tags_are_no_audio(tmp_path: Path, form: str, behind: bytes) -> None:
    data = encoded(tone(8000), form)
    expected = read_audio(write(tmp_path / "alone", data), SAME)
    found = read_audio(write(tmp_path / "tagged", data, behind), SAME)
    if form == "VOC" and not behind.strip(b"\0"):
        found = found[: len(expected)]  # whose sizes may overflow: zeros may be silence
    np.testing.assert_array_equal(found, expected)


def test_chunks_behind_a_wavs_data_are_no_other_recording(tmp_path: Path) -> None:
    data = bytearray(encoded(tone(8000), "WAV"))
    data += b"LIST" + struct.pack("<I", 12) + b"INFORIFFWAVE"
    data[4:8] = struct.pack("<I", len(data) - 8)
    path = write(tmp_path / "a.wav", bytes(data))
    assert len(read_audio(path, SAME)) == audio_length(path, SAME) == 8000
    path = write(tmp_path / "b.wav", bytes(data), b"not a chunk")
    assert len(read_audio(path, SAME)) == 8000


def test_other_rates_are_refused_with_what_helps(tmp_path: Path) -> None:
    parts = [encoded(tone(4000), "OGG", "VORBIS", rate) for rate in (16000, 22050)]
    path = write(tmp_path / "a b.ogg", *parts)
    message = "holds 2 recordings, one after another, of 16000 and 22050 Hz.*ffmpeg -i"
    refused(path, message)
    with pytest.raises(AudioError, match="22050 Hz"):
        list(read_blocks(path, SAME))


def test_channels_may_differ(tmp_path: Path) -> None:
    mono, stereo = tone(4000), np.stack([tone(4000), tone(4000, 880)], 1)
    path = write(tmp_path / "a", encoded(mono, "FLAC"), encoded(stereo, "FLAC"))
    expected = np.concatenate([mono, stereo.mean(1)])
    np.testing.assert_allclose(read_audio(path, SAME), expected, atol=1e-4)


def test_a_second_half_that_is_damaged(tmp_path: Path) -> None:
    for form in ("WAV", "FLAC", "NIST", "MP3"):
        first, second, _ = both(tmp_path, form)
        refused(write(tmp_path / "joined", first, second[: len(second) // 2]), "is damaged")


def test_flac_of_open_length_in_a_chain(tmp_path: Path) -> None:
    first, second, expected = both(tmp_path, "FLAC")
    data = bytearray(first)
    head = int.from_bytes(data[18:26], "big") >> 36 << 36
    data[18:26] = head.to_bytes(8, "big")
    path = write(tmp_path / "a.flac", bytes(data), second)
    with Recording(path) as recording:
        assert recording.frames() == UNKNOWN
    np.testing.assert_array_equal(read_audio(path, SAME), expected)
    assert audio_length(path, SAME) == len(expected)


def test_files_are_closed(tmp_path: Path) -> None:
    first, second, _ = both(tmp_path, "OGG", "VORBIS")
    good = write(tmp_path / "good", first, second)
    bad = write(tmp_path / "bad", first, second[:-5])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        read_audio(good, SAME)
        audio_length(good, SAME)
        next(read_blocks(good, SAME)).sum()
        with pytest.raises(AudioError):
            read_audio(bad, SAME)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
