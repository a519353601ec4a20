"""Log-mel spectrograms in numpy; the training loss has its filters from here."""

import numpy as np
from numpy.typing import NDArray


def mel_filters(
    sample_rate: int, n_fft: int, n_mels: int, low: float = 0.0, high: float | None = None
) -> NDArray[np.float64]:
    """Triangular filters on HTK's mel scale, of peak 1: (n_fft // 2 + 1, n_mels) float64.

    `low` and `high` in Hz; None for half of the sample rate. A band that is narrower than the
    bins' spacing may hold none of them.
    """
    top = sample_rate / 2 if high is None else high
    mels = np.linspace(2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + top / 700), n_mels + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.arange(n_fft // 2 + 1)[:, None] * sample_rate / n_fft
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: NDArray[np.float64] = np.clip(np.minimum(rising, falling), 0, None)
    return filters


def mel_spectrogram(
    audio: NDArray[np.floating],
    sample_rate: int,
    *,
    n_fft: int,
    hop: int,
    n_mels: int,
    floor: float = 1e-5,
) -> NDArray[np.float32]:
    """Natural logarithms of the power in mel bands, (ceil(T / hop), n_mels) float32.

    Windows are Hann's (periodic), scaled so that a full-scale sine has power 1; `floor` is added to
    the power. Frame i is centred on sample i·hop + hop // 2, with zeros outside of the audio (T,).
    """
    frames = -(-len(audio) // hop)
    first = hop // 2 - n_fft // 2  # negative unless windows are shorter than the hop
    before, start = max(0, -first), max(0, first)
    padded = np.zeros(start + before + frames * hop + n_fft, np.float64)
    padded[before : before + len(audio)] = audio
    windows = np.lib.stride_tricks.sliding_window_view(padded[start:], n_fft)[::hop][:frames]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    spectrum = np.fft.rfft(windows * (window * (2 / window.sum())))
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return np.log(power @ mel_filters(sample_rate, n_fft, n_mels) + floor).astype(np.float32)
