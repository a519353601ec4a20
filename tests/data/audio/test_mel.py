import math

import numpy as np
import pytest

from vqtrt.data.audio.mel import mel_filters, mel_spectrogram


def hertz(mel: float) -> float:
    return 700 * (10 ** (mel / 2595) - 1)


def mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def filters_by_definition(rate, n_fft, n_mels, low, high):
    step = (mel(high) - mel(low)) / (n_mels + 1)
    out = np.zeros((n_fft // 2 + 1, n_mels))
    for band in range(n_mels):
        left, peak, right = (hertz(mel(low) + (band + i) * step) for i in range(3))
        for k in range(n_fft // 2 + 1):
            f = k * rate / n_fft
            if left < f <= peak:
                out[k, band] = (f - left) / (peak - left)
            elif peak < f < right:
                out[k, band] = (right - f) / (right - peak)
    return out


def spectrogram_by_definition(audio, rate, n_fft, hop, n_mels, floor=1e-5):
    frames = math.ceil(len(audio) / hop)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * i / n_fft) for i in range(n_fft)]
    filters = filters_by_definition(rate, n_fft, n_mels, 0, rate / 2)
    out = np.zeros((frames, n_mels))
    for i in range(frames):
        first = i * hop + hop // 2 - n_fft // 2
        part = [
            audio[first + j] * window[j] if 0 <= first + j < len(audio) else 0.0
            for j in range(n_fft)
        ]
        power = []
        for k in range(n_fft // 2 + 1):
            turns = np.exp(-2j * np.pi * k * np.arange(n_fft) / n_fft)
            power.append(abs((np.array(part) * turns).sum() * 2 / sum(window)) ** 2)
        out[i] = np.log(np.array(power) @ filters + floor)
    return out


@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels", "low", "high"),
    [(16000, 512, 40, 0.0, None), (8000, 256, 20, 100.0, 3800.0), (22050, 64, 5, 0.0, None)],
)
def test_filters_are_the_triangles_of_the_scale(rate, n_fft, n_mels, low, high):
    found = mel_filters(rate, n_fft, n_mels, low, high)
    assert found.shape == (n_fft // 2 + 1, n_mels)
    expected = filters_by_definition(rate, n_fft, n_mels, low, high or rate / 2)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("samples", "n_fft", "hop"),
    [(500, 64, 16), (123, 64, 64), (200, 32, 7), (201, 33, 10), (1, 16, 4), (300, 16, 50)],
)
def test_spectrogram_is_the_plain_one(samples, n_fft, hop):
    audio = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    found = mel_spectrogram(audio, 8000, n_fft=n_fft, hop=hop, n_mels=6)
    assert found.dtype == np.float32
    assert found.shape == (math.ceil(samples / hop), 6)
    np.testing.assert_allclose(
        found, spectrogram_by_definition(audio, 8000, n_fft, hop, 6), atol=1e-5
    )


def test_a_full_scale_sine_has_power_one():
    n_fft, bands = 512, 20
    edges = np.linspace(0, mel(4000), bands + 2)
    peak = round(hertz(edges[10]) * n_fft / 8000)  # a bin next to the middle of band 9
    audio = np.sin(2 * np.pi * peak / n_fft * np.arange(8000))
    found = mel_spectrogram(audio, 8000, n_fft=n_fft, hop=128, n_mels=bands, floor=1e-12)
    middle = found[20:40]
    assert (middle.argmax(axis=1) == 9).all()
    share = mel_filters(8000, n_fft, bands)[peak - 1 : peak + 2, 9]
    # Hann's window spreads a sine over three bins: 1, and a half of the amplitude beside it.
    np.testing.assert_allclose(middle[:, 9], math.log(share @ [0.25, 1, 0.25]), atol=1e-4)


def test_silence_is_the_floor():
    found = mel_spectrogram(np.zeros(100, np.float32), 8000, n_fft=64, hop=32, n_mels=4, floor=1e-3)
    np.testing.assert_allclose(found, math.log(1e-3), rtol=1e-6)


@pytest.mark.parametrize("hop", [16, 200])
def test_nothing_has_no_frames(hop):
    empty = np.zeros(0, np.float32)
    assert mel_spectrogram(empty, 8000, n_fft=64, hop=hop, n_mels=4).shape == (0, 4)
