"""The codes artefact of speech: all codes of all clips in one row, and where each clip lies in it.

Notable: clips differ in length, so the array has one axis and the JSON says where each clip begins;
the JSON of a stranger is checked as that of images is. What both kinds share is in `codes.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqtrt.errors import VqtrtError
from vqtrt.formats.code_values import first_bad
from vqtrt.formats.codes import (
    Codes,
    Header,
    Numbers,
    Rejected,
    check_lists,
    images_codes,
    is_list,
    load_pair,
    parse_header,
    require_kind,
    take_lists,
)
from vqtrt.system.names import brief


class ClipHeader(Header):
    """The header of speech; `classes` are the speakers."""

    kind: Literal["speech"] = "speech"
    num_codebooks: Literal[1] = 1
    sample_rate: int = Field(gt=0, le=1 << 32)
    """Samples a second of what was encoded."""
    stride: int = Field(gt=0, le=1 << 32)
    """Samples that one code stands for."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """One row of the array is one code: ()."""
        return ()

    def rows_of(self, numbers: Numbers) -> int | None:
        """Codes of a clip, of (speaker, codes, samples)."""
        if len(numbers) != 3:
            return None
        _, codes, samples = numbers
        return codes if samples > 0 and codes == codes_in(samples, self.stride) else None

    def columns(self, items: Callable[[], Iterator[Numbers]]) -> dict[str, Iterator[int]]:
        """Speakers, where there are any, offsets and samples."""
        labels = {"labels": (label for label, _, _ in items())} if self.classes else {}
        return labels | {
            "offsets": accumulate((codes for _, codes, _ in items()), initial=0),
            "samples": (samples for _, _, samples in items()),
        }


@dataclass(frozen=True)
class ClipCodes:
    """Codes of clips on disk; without the JSON, all codes are one clip, and `header` is None."""

    path: Path
    codes: NDArray[Any]
    """Memory-mapped integers, (codes of all clips,)."""
    offsets: tuple[int, ...]
    """N + 1 ascending: clip i has the codes offsets[i] to offsets[i + 1]."""
    header: ClipHeader | None = None
    files: tuple[str, ...] = ()
    """One name a clip."""
    labels: tuple[int, ...] = ()
    """One speaker a clip, as an index into `header.classes`, -1 for none; or empty, as there."""
    samples: tuple[int, ...] = ()
    """Length of each clip in samples at `header.sample_rate`."""
    rejected: tuple[Rejected, ...] = ()

    def __len__(self) -> int:
        """How many clips there are."""
        return len(self.offsets) - 1

    def clip(self, index: int) -> NDArray[Any]:
        """The codes (t,) of one clip."""
        part: NDArray[Any] = self.codes[self.offsets[index] : self.offsets[index + 1]]
        return part

    def lengths(self) -> list[int]:
        """Codes of each clip."""
        return [stop - start for start, stop in pairwise(self.offsets)]

    def name(self, index: int) -> str:
        """How messages call a clip."""
        return f"clip {index}" + (f" ({brief(self.files[index])})" if self.files else "")


def codes_in(samples: int, stride: int) -> int:
    """How many codes a clip has: its end is filled up with zeros to a whole code."""
    return -(-samples // stride)


def open_codes(path: Path) -> Codes | ClipCodes:
    """Open codes of either kind; `VqtrtError` as from `read_codes` and `read_clip_codes`."""
    array, info = load_pair(path)
    if array.ndim == 1 if info is None else info.get("kind") == "speech":
        return _clip_codes(path, array, info)
    return images_codes(path, array, info)


def read_clip_codes(path: Path) -> ClipCodes:
    """Open codes of speech without loading them, with the JSON beside them where there is one.

    Raises `VqtrtError` where the array is not one of codes (integers, none negative, one axis) or
    where the JSON does not belong to it. Values are compared with a codebook by
    `check_clip_codes`.
    """
    return _clip_codes(path, *load_pair(path))


def _clip_codes(path: Path, array: NDArray[Any], info: dict[str, Any] | None) -> ClipCodes:
    json_path = path.with_suffix(".json")
    if info is not None:
        require_kind(info, "speech", json_path)
    if array.ndim != 1:
        raise VqtrtError(
            f"{path}: has shape {array.shape}, but codes of speech have one axis, clip after clip; "
            "reshape them first"
        )
    if info is None:
        alone = ClipCodes(path, array, (0, len(array)) if len(array) else (0,))
        check_clip_codes(alone, None)
        return alone
    rows = info.pop("rows", None)
    lists = take_lists(info, "files", "labels", "offsets", "samples", "rejected")
    header = parse_header(ClipHeader, info, json_path)
    mend = "encode again, or remove the JSON"
    if type(rows) is not int or rows < 0:
        raise VqtrtError(f"{json_path}: 'rows' is {brief(rows)}, no number of clips; {mend}")
    offsets, samples = lists["offsets"], lists["samples"]
    if not is_list(offsets, int) or len(offsets) != rows + 1:
        raise VqtrtError(f"{json_path}: 'offsets' is not a list of {rows + 1} integers; {mend}")
    if not is_list(samples, int) or len(samples) != rows:
        raise VqtrtError(f"{json_path}: 'samples' is not a list of {rows} integers; {mend}")
    if offsets[0] != 0 or any(stop < start for start, stop in pairwise(offsets)):
        raise VqtrtError(f"{json_path}: 'offsets' do not ascend from 0; {mend}")
    if offsets[-1] != len(array):
        raise VqtrtError(
            f"{json_path}: describes {brief(offsets[-1])} codes, but {path.name} has {len(array)}; "
            "bring the two files of one run together"
        )
    for clip, (count, (start, stop)) in enumerate(zip(samples, pairwise(offsets), strict=True)):
        if count < 1 or stop - start != codes_in(count, header.stride):
            raise VqtrtError(
                f"{json_path}: clip {clip} has {stop - start} codes for {brief(count)} samples at "
                f"{header.stride} samples a code; {mend}"
            )
    files, labels, rejected = check_lists(lists, rows, header, json_path)
    codes = ClipCodes(path, array, tuple(offsets), header, files, labels, tuple(samples), rejected)
    if array.dtype.kind == "i":
        check_clip_codes(codes, None)
    return codes


def check_clip_codes(codes: ClipCodes, codebook_size: int | None) -> None:
    """Raise `VqtrtError` at the first code that is not in a codebook; reads chunk by chunk.

    With None, at the first that is negative. Its clip and its place in it are named.
    """
    if bad := first_bad(codes.codes, codebook_size):
        (place, *_), value, reason = bad
        clip = int(np.searchsorted(codes.offsets, place, side="right")) - 1
        raise VqtrtError(
            f"{codes.path}: {codes.name(clip)} holds {value} at {place - codes.offsets[clip]}, "
            f"but {reason}"
        )
