"""Recordings as files, good ones and ones that are refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqtrt.data.audio.decode import AudioPreprocessing, read_audio
from vqtrt.errors import AudioError

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
