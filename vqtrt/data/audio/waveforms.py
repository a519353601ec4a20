"""Pictures of recordings: waveforms over mel spectrograms, what belongs together side by side.

Notable: within a row everything has the same scales (time, amplitude, decibels), so that what
differs is the sound; and of a long recording no more is drawn than a picture can show.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.audio.mel import mel_spectrogram
from vqtrt.data.grid import check_png, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = tuple[str, Sequence[tuple[str, NDArray[np.floating]]]]
"""A title, and recordings (T,) in [-1, 1] with their captions."""

# Inches, at this many dots each; fewer where a picture would be too high for any viewer.
_DPI, _MOST_DOTS = 110, 30_000
_COLUMN, _ROW = 3.4, 2.9
_FRAMES = 1000
"""Frames, and points of a waveform, that a recording is drawn with at most."""
_WINDOW = 0.032  # seconds, as is usual for speech
_BANDS = 40  # more would leave low bands without a bin of such a window
_RANGE = 70.0  # decibels below the loudest of a row
_FLOOR = 1e-10  # of power; quieter than a 16-bit recording's own noise
_LETTERS, _TITLE_LETTERS = 40, 34  # of a caption and of a title, that fit over a column
_TICKS = (250, 1000, 2000, 4000, 8000, 16000)
_DECIBELS = 10 / math.log(10)  # of what is the natural logarithm of power


def clips_picture(path: Path, rows: Sequence[Row], sample_rate: int) -> None:
    """Write recordings as PNG: a row each of `rows`, with the recordings from left to right.

    Such as an original, its reconstruction and its conversion; they may differ in length. Raises
    `VqtrtError` where it cannot be written, `ModuleNotFoundError` without matplotlib, and
    `ValueError` where there is nothing to draw.
    """
    if not rows or not all(clips for _, clips in rows):
        raise ValueError("a picture needs a row, and each row a recording")
    check_png(path)
    columns = max(len(clips) for _, clips in rows)
    size = (1 + _COLUMN * columns, _ROW)
    dpi = min(_DPI, _MOST_DOTS / max(size[0], _ROW * len(rows)))
    # Row by row: the time of matplotlib's layout grows with the square of what is in a figure.
    drawn = [_row(row, columns, sample_rate, size, dpi) for row in rows]
    save_png(path, np.concatenate(drawn))


def _row(
    row: Row, columns: int, sample_rate: int, size: tuple[float, float], dpi: float
) -> NDArray[np.uint8]:
    """A row as RGB (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, dpi=dpi, layout=ConstrainedLayoutEngine(h_pad=0.06))
    canvas = FigureCanvasAgg(figure)
    title, clips = row
    title = _drawable(title, _TITLE_LETTERS * columns)
    figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
    _draw_clips(figure, clips, columns, sample_rate)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def _draw_clips(
    figure: "Figure",
    clips: Sequence[tuple[str, NDArray[np.floating]]],
    columns: int,
    sample_rate: int,
) -> None:
    """Draw recordings from left to right, and nothing where there are fewer than `columns`."""
    axes = figure.subplots(2, columns, squeeze=False, height_ratios=(1, 1.6))
    longest = max(max(len(audio) for _, audio in clips), 1)
    seconds = longest / sample_rate
    loudest = max(max(float(np.abs(audio).max(initial=0)) for _, audio in clips), 1e-3)
    n_fft = 2 ** round(math.log2(max(_WINDOW * sample_rate, 16)))
    hop = max(n_fft // 8, -(-longest // _FRAMES))
    mels = [
        _DECIBELS
        * mel_spectrogram(audio, sample_rate, n_fft=n_fft, hop=hop, n_mels=_BANDS, floor=_FLOOR)
        for _, audio in clips
    ]
    top = max(float(mel.max(initial=-100)) for mel in mels)
    for column in range(columns):
        wave, spectrum = axes[:, column]
        if column >= len(clips):
            wave.set_axis_off()
            spectrum.set_axis_off()
            continue
        caption, audio = clips[column]
        wave.set_title(_drawable(caption, _LETTERS), fontsize=10, parse_math=False)
        _draw_wave(wave, audio, longest, sample_rate)
        wave.set_ylim(-1.05 * loudest, 1.05 * loudest)
        mel = mels[column]
        image = spectrum.imshow(
            mel.T,
            cmap="magma",
            vmin=top - _RANGE,
            vmax=top,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0, max(len(mel), 1) * hop / sample_rate, 0, _BANDS),
        )
        # Beyond a shorter recording's end there is nothing, which is not silence.
        spectrum.set_facecolor("0.9")
        _label(wave, spectrum, sample_rate, first=column == 0)
        for each in (wave, spectrum):
            each.set_xlim(0, seconds)
            each.tick_params(labelsize=8)
    bar = figure.colorbar(image, ax=axes[1, :], pad=0.01, fraction=0.03)
    bar.set_label("dB", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _draw_wave(axes: "Axes", audio: NDArray[np.floating], longest: int, sample_rate: int) -> None:
    """The samples; of many, the extent of each stretch."""
    per = -(-longest // (2 * _FRAMES))
    if per == 1:
        axes.plot(np.arange(len(audio)) / sample_rate, audio, linewidth=0.7, color="C0")
        return
    starts = np.arange(0, len(audio), per)
    if len(starts):
        low, high = (extent.reduceat(audio, starts) for extent in (np.minimum, np.maximum))
        middles = (starts + per / 2) / sample_rate
        axes.fill_between(middles, low, high, linewidth=0.5, color="C0")


def _label(wave: "Axes", spectrum: "Axes", sample_rate: int, *, first: bool) -> None:
    """Axes' names and ticks; numbers at the left only, as they are the same for all."""
    step = _mel(sample_rate / 2) / (_BANDS + 1)
    ticks = [hertz for hertz in _TICKS if _mel(hertz) <= _BANDS * step]
    spectrum.set_yticks(
        [_mel(hertz) / step - 0.5 for hertz in ticks],
        labels=[f"{hertz / 1000:g}" for hertz in ticks] if first else [""] * len(ticks),
    )
    spectrum.set_xlabel("seconds", fontsize=8)
    wave.tick_params(labelbottom=False, labelleft=first)
    wave.grid(alpha=0.25)
    if first:
        spectrum.set_ylabel("kHz", fontsize=8)
        wave.set_ylabel("amplitude", fontsize=8)


def _mel(hertz: float) -> float:
    """Place on the scale of `mel_filters`."""
    return 2595 * math.log10(1 + hertz / 700)


def _drawable(text: str, most: int) -> str:
    """The text, without its middle where it is too long.

    What the font lacks becomes a box: matplotlib would warn of each.
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    if len(text) > most:
        text = f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(c if ord(c) in known and c.isprintable() else "\N{WHITE SQUARE}" for c in text)
