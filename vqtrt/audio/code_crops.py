"""Codes of clips in crops of bounded length, each with the codes before it that a model looks at.

Notable: crops lie end to end, so that together they have every code once; and with as many codes to
their left as the model's receptive field, each code is seen as in the whole clip. A batch of crops
is filled up at the end, which nothing before it sees.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.formats.audio_codes import ClipCodes


class Crop(NamedTuple):
    """Codes `start` to `stop` of a clip, and those from `first` on that lie before them."""

    clip: int
    first: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Codes, with those before."""
        return self.stop - self.first


class CropBatch(NamedTuple):
    """Codes of several crops."""

    codes: NDArray[np.int32]
    """(n, t); the first follows nothing, or is further away than the model sees."""
    loss_mask: NDArray[np.bool_]
    """(n, t): the crops' own codes, without those before and without what fills up the end."""


def code_crops(lengths: Sequence[int], clips: Iterable[int], size: int, reach: int) -> list[Crop]:
    """The crops of up to `size` codes that the clips of these numbers consist of.

    `lengths` is that of every clip; `reach` is how many codes a model sees behind it.
    """
    return [
        Crop(clip, max(0, start - reach), start, min(start + size, lengths[clip]))
        for clip in clips
        for start in range(0, lengths[clip], size)
    ]


def take_crops(
    codes: ClipCodes,
    crops: Sequence[Crop],
    length: int | None = None,
    *,
    tails: Sequence[NDArray[Any]] | None = None,
) -> CropBatch:
    """The codes of some crops, filled up to `length` with zeros; None for the longest of them.

    `tails` are codes (t,) to put behind each crop, which count as its own.
    """
    rows = [codes.clip(crop.clip)[crop.first : crop.stop] for crop in crops]
    if tails is not None:
        rows = [np.concatenate(pair) for pair in zip(rows, tails, strict=True)]
    length = length or max(map(len, rows))
    out = np.zeros((len(crops), length), np.int32)
    loss_mask = np.zeros((len(crops), length), bool)
    for number, (crop, row) in enumerate(zip(crops, rows, strict=True)):
        out[number, : len(row)] = row
        loss_mask[number, crop.start - crop.first : len(row)] = True
    return CropBatch(out, loss_mask)
