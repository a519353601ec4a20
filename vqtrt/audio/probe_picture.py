"""A picture of what a phone probe found: how likely each phone is where a code stands."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.probe import Probe
from vqtrt.data.grid import check_png, save_png

# Inches, at this many dots each. A picture keeps to some 4,000 dots a side.
_DPI = 120
_ROW, _COLUMN, _MOST = 0.17, 0.075, 30.0
_MARGIN = 1.6


def order(probe: Probe) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Phones, most frequent first, and codes that occur, by their phone and how likely it is.

    Indices into the axes of `Probe.counts`: where codes follow phones, a staircase is seen.
    """
    phones = np.argsort(-probe.counts.sum(axis=0), kind="stable")
    chances = probe.probabilities()[:, phones]
    used = np.flatnonzero(probe.counts.any(axis=1))
    best = chances[used].argmax(axis=1)
    codes = used[np.lexsort((-chances[used, best], best))]
    return phones, codes


def probe_picture(path: Path, probe: Probe) -> None:
    """Write P(phone | code) on the training part as PNG: a row a phone, a column a code.

    Raises `VqtrtError` where it cannot be written, `ModuleNotFoundError` without matplotlib.
    """
    check_png(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    phones, codes = order(probe)
    width = min(_MOST, max(6.0, _COLUMN * len(codes)) + _MARGIN)
    height = min(_MOST, max(2.0, _ROW * len(phones)) + _MARGIN)
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(
        probe.probabilities()[np.ix_(codes, phones)].T,
        cmap="viridis",
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    rows = (height - _MARGIN) / len(phones)
    # Points: 72 to the inch, and some air between the lines.
    size = min(9.0, max(3.0, 0.8 * rows * 72))
    names = [probe.phones[i] for i in phones]
    axes.set_yticks(range(len(phones)), labels=names, fontsize=size, parse_math=False)
    every = math.ceil(0.35 * len(codes) / (width - _MARGIN))
    shown = range(0, len(codes), every)
    axes.set_xticks(shown, labels=[str(codes[i]) for i in shown], fontsize=7, rotation=90)
    axes.set_xlabel(f"code, by its phone ({len(codes)} of {len(probe.counts)} occur)")
    axes.set_ylabel("phone, most frequent first")
    scores = probe.scores
    axes.set_title(
        f"P(phone | code): {scores.accuracy:.1%} of {probe.codes[1]:,} held-out codes right "
        f"(most frequent phone {scores.most_frequent:.1%}, shuffled {scores.shuffled:.1%})",
        fontsize=9,
    )
    figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    save_png(path, pixels[..., :3].copy())
