"""Audio files as bytes, to cut, join and damage."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqtrt.data.audio.decode import AudioPreprocessing, read_audio
from vqtrt.errors import AudioError

RATE = 16000
SAME = AudioPreprocessing(sample_rate=RATE)
ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\4\0\0\0\0\1\x1c" + b"\xff\xfb\x90\0" * 39
APE = (
    b"APETAGEX"
    + struct.pack("<IIII8x", 2000, 132, 1, 0xA0000000)
    + bytes(range(100))
    + b"APETAGEX"
    + struct.pack("<IIII8x", 2000, 132, 1, 0x80000000)
)


def tone(samples: int, hertz: float = 440) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)).astype(np.float32)


def encoded(samples: np.ndarray, form: str, sub: str | None = None, rate: int = RATE) -> bytes:
    """A file's bytes, by way of this process's own scratch file."""
    descriptor = os.memfd_create("audio")
    try:
        soundfile.write(f"/proc/self/fd/{descriptor}", samples, rate, sub, format=form)
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path, SAME)
    assert str(caught.value).startswith(f"{path}: ")
