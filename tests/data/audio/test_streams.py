"""Ogg pages made by hand; `test_recording.py` reads what real encoders write."""

import struct
from pathlib import Path

import pytest
from audio_files import write

from vqtrt.data.audio.file_bytes import DamagedError, FileBytes
from vqtrt.data.audio.streams import Stream, find_streams

_CRC = [0] * 256
for _i in range(256):
    _r = _i << 24
    for _ in range(8):
        _r = (_r << 1 ^ 0x04C11DB7 if _r & 1 << 31 else _r << 1) & 0xFFFFFFFF
    _CRC[_i] = _r


def page(body: bytes, flags: int = 0, serial: int = 1, number: int = 0, granule: int = 0) -> bytes:
    """An Ogg page with one packet (RFC 3533)."""
    sizes = bytes([255] * (len(body) // 255) + [len(body) % 255])
    head = struct.pack("<4sBBqIII", b"OggS", 0, flags, granule, serial, number, 0)
    data = head + bytes([len(sizes)]) + sizes + body
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _CRC[crc >> 24 ^ byte]
    return data[:22] + struct.pack("<I", crc) + data[26:]


def found(tmp_path: Path, *parts: bytes) -> list[Stream]:
    path = write(tmp_path / "a", *parts)
    with path.open("rb") as file:
        return find_streams(FileBytes(file.fileno(), path.stat().st_size))


def test_streams_beside_each_other_are_one_link(tmp_path: Path) -> None:
    group = page(b"audio", 2, 1) + page(b"video", 2, 2) + page(b"x", 0, 1) + page(b"y", 0, 2)
    link = group + page(b"z", 4, 1) + page(b"z" * 300, 4, 2)
    assert found(tmp_path, link) == [Stream(0, len(link))]
    n = len(link)
    assert found(tmp_path, link, link) == [Stream(0, n), Stream(n, 2 * n)]
    assert found(tmp_path, link, b"junk", link) == [Stream(0, n), Stream(n + 4, 2 * n + 4)]
    # A link of one page.
    short = page(b"all", 6)
    assert found(tmp_path, link, short) == [Stream(0, n), Stream(n, n + len(short))]


def test_a_last_page_that_is_not_there(tmp_path: Path) -> None:
    begun = page(b"audio", 2) + page(b"x" * 1000)
    for end in (b"", page(b"z" * 300, 4)[:-1], page(b"z", 4)[:20], page(b"z", 4)[:5]):
        with pytest.raises(DamagedError, match="last page"):
            found(tmp_path, begun, end)


def test_what_is_not_known_is_one_stream(tmp_path: Path) -> None:
    for data in (b"\0" * 100, b"ID3\4\0\0\0\0\0\0", b"RIFF\4\0\0\0AVI ", b"x"):
        assert found(tmp_path, data) == [Stream(0, len(data))]


def test_a_signature_alone_is_no_stream_and_no_end(tmp_path: Path) -> None:
    heads = (b"OggS\0\2", b"fLaC", b"NIST_1A\n", b"caff\0", b".snd\0", b"Creative Voice File\x1a")
    for head in (*heads, b"RIFF\xff\0\0\0WAVE", b"RF64....WAVE", b"FORM\1\1\1\1AIFF"):
        for length in range(0, 60, 7):
            try:
                assert found(tmp_path, head, b"\1" * length) == [Stream(0, len(head) + length)]
            except DamagedError:
                assert head.startswith(b"Ogg")


def test_a_sphere_whose_samples_are_packed_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    head = (
        b"NIST_1A\n   1024\nchannel_count -i 1\nsample_count -i 8000\nsample_n_bytes -i 2\n"
        b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    )
    assert found(tmp_path, head.ljust(1024), b"x" * 900) == [Stream(0, 1924)]
    with pytest.raises(DamagedError, match="450 of 8000 samples"):
        found(tmp_path, head.replace(b",embedded-shorten-v2.00", b"").ljust(1024), b"x" * 900)
