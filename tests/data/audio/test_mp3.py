import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import ID3V1, ID3V2, SAME, encoded, refused, tone, write

from vqtrt.data.audio import mp3, streams
from vqtrt.data.audio.decode import AudioPreprocessing, audio_length, read_audio
from vqtrt.data.audio.file_bytes import FileBytes
from vqtrt.data.audio.streams import find_streams

FRAME = bytes.fromhex("fffb9000") + bytes(413)
"""Of MPEG 1, layer III, 128 kbit/s at 44.1 kHz: 417 bytes of silence."""


def with_count(data: bytes, frames: int) -> bytes:
    """An MP3 whose Xing header counts some frames."""
    place = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
    assert place > 0
    return data[: place + 8] + struct.pack(">I", frames) + data[place + 12 :]


def counted(data: bytes) -> int:
    place = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
    return int(struct.unpack(">I", data[place + 8 : place + 12])[0])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_header_that_counts_too_few_frames(tmp_path: Path, share: float) -> None:
    data = encoded(tone(16000), "MP3")
    expected = read_audio(write(tmp_path / "a.mp3", data), SAME)
    path = write(tmp_path / "b.mp3", with_count(data, int(share * counted(data))))
    np.testing.assert_array_equal(read_audio(path, SAME), expected)
    assert audio_length(path, SAME) == 16000


def test_a_header_that_counts_too_many_frames(tmp_path: Path) -> None:
    data = encoded(tone(16000), "MP3")
    frames = counted(data)
    refused(write(tmp_path / "a.mp3", with_count(data, 3 * frames)), f"{frames} of {3 * frames} fr")
    # Some encoders count the frame of the header, too.
    path = write(tmp_path / "b.mp3", with_count(data, frames + 1))
    assert len(read_audio(path, SAME)) == 16000


def test_a_header_that_counts_all_that_were_joined(tmp_path: Path) -> None:
    first, second = encoded(tone(16000), "MP3"), encoded(tone(8000, 880), "MP3")
    total = counted(first) + counted(second)
    path = write(tmp_path / "a.mp3", with_count(first, total), second)
    assert len(read_audio(path, SAME)) == 24000


def headless(data: bytes) -> bytes:
    """An MP3 without its header."""
    return data[mp3._length(int.from_bytes(data[:4], "big") >> 9) :]


def test_variable_bit_rates_without_a_header(tmp_path: Path) -> None:
    quiet = np.concatenate([0.5 * np.random.default_rng(0).normal(size=4000), np.zeros(40_000)])
    for samples in (quiet, quiet[::-1]):
        data = encoded(np.clip(samples, -1, 1), "MP3")
        path = write(tmp_path / "a.mp3", headless(data))
        # Nothing says how much of it is an encoder's delay and padding.
        assert 44_000 <= len(read_audio(path, SAME)) < 44_000 + 3 * 1152
        assert 44_000 <= audio_length(path, SAME) < 44_000 + 3 * 1152


def test_joined_without_headers(tmp_path: Path) -> None:
    parts = [headless(encoded(tone(16000, hertz), "MP3")) for hertz in (440, 880)]
    alone = sum(len(read_audio(write(tmp_path / "x.mp3", part), SAME)) for part in parts)
    for between in (b"", ID3V1, ID3V2, b"\1" * 5000):
        found = read_audio(write(tmp_path / "a.mp3", parts[0], between, parts[1]), SAME)
        # A decoder that plays on has its delay once.
        assert alone <= len(found) <= alone + 600
        assert np.abs(found[-4000:]).max() > 0.2


def test_a_damaged_frame_is_no_end(tmp_path: Path) -> None:
    data = bytearray(encoded(tone(48000), "MP3"))
    whole = len(read_audio(write(tmp_path / "a.mp3", bytes(data)), SAME))
    starts = [i for i in range(len(data)) if data[i : i + 2] == data[:2]]
    middle = starts[len(starts) // 2]
    data[middle : middle + 4] = bytes(4)
    found = len(read_audio(write(tmp_path / "b.mp3", bytes(data)), SAME))
    assert whole - 3 * 1152 < found <= whole + 1152


def test_streams_of_frames(tmp_path: Path) -> None:
    def ranges(*parts: bytes) -> list[tuple[int, int]]:
        path = write(tmp_path / "a.mp3", *parts)
        with path.open("rb") as file:
            found = find_streams(FileBytes(file.fileno(), path.stat().st_size))
            assert not any(stream.prefix for stream in found)
            return [(stream.start, stream.end) for stream in found]

    n = 10 * len(FRAME)
    assert ranges(FRAME * 10) == [(0, n)]
    assert ranges(FRAME * 10, ID3V2, FRAME * 10) == [(0, n), (n + len(ID3V2), 2 * n + len(ID3V2))]
    # More frames than a block holds.
    assert ranges(FRAME * 500, ID3V2, FRAME * 3)[1][0] == 500 * len(FRAME) + len(ID3V2)
    other = bytes.fromhex("fffb9400") + bytes(380)  # 48 kHz
    assert ranges(FRAME * 10, other * 10) == [(0, n), (n, n + 10 * len(other))]
    assert ranges(FRAME * 10, b"no frames") == [(0, n + 9)]
    # Two frames may be chance.
    assert ranges(FRAME * 10, b"x" * 2000, FRAME * 2, b"x") == [(0, n + 2001 + 2 * len(FRAME))]


def test_one_bit_rate_needs_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", FRAME * 50)
    with soundfile.SoundFile(path) as file:
        file.seekable = lambda: False
        expected = file.read(100_000, dtype="float32", always_2d=True).mean(1)
    found = read_audio(path, AudioPreprocessing(sample_rate=44100))
    assert len(found) == 50 * 1152
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("head", "length"),
    [
        ("fffb9000", 417),
        ("fffb9200", 418),
        ("fff38000", 208),  # MPEG 2, 64 kbit/s at 22.05 kHz
        ("ffe39000", 522),  # MPEG 2.5, 80 kbit/s at 11.025 kHz
        ("fffd9000", 522),  # layer II, 160 kbit/s
        ("ffff9000", 312),  # layer I, 288 kbit/s
        ("fff19000", 0),  # AAC
        ("fffb0000", 0),  # free format
        ("fffbf000", 0),
        ("fffb9c00", 0),
        ("ffeb9000", 0),
        ("00000000", 0),
    ],
)
def test_the_length_of_a_frame(head: str, length: int) -> None:
    assert mp3._length(int(head, 16) >> 9) == length


def test_many_streams_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp3, "MOST_STREAMS", 50)
    monkeypatch.setattr(streams, "MOST_STREAMS", 50)
    parts = itertools.chain.from_iterable([FRAME * 3, ID3V2] for _ in range(60))
    refused(write(tmp_path / "a.mp3", *parts), "more than 50 recordings, one after another")


def test_a_vbri_header_counts_too(tmp_path: Path) -> None:
    head = FRAME[:36] + b"VBRI" + struct.pack(">HHHII", 1, 0, 0, 417 * 10, 30)
    path = write(tmp_path / "a.mp3", head.ljust(417, b"\0"), FRAME * 10)
    refused(path, "10 of 30 frames are there")
    path = write(tmp_path / "a.mp3", head.ljust(417, b"\0"), FRAME * 30)
    assert audio_length(path, SAME) > 0


def test_a_file_that_is_as_its_header_says_is_left_as_it_is(tmp_path: Path) -> None:
    data = encoded(tone(16000), "MP3")
    for before in (b"", ID3V2):
        path = write(tmp_path / "a.mp3", before, data, ID3V1)
        with path.open("rb") as file:
            size = path.stat().st_size
            assert find_streams(FileBytes(file.fileno(), size)) == [(0, size, b"")]
        assert len(read_audio(path, SAME)) == 16000
