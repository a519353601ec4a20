"""Whether an array holds codes of a model: its shape, its dtype and each of its values.

Notable: nothing here loads a whole array.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.errors import VqtrtError

CHUNK_BYTES = 16 << 20


def check_codes(
    codes: NDArray[Any],
    codebook_size: int,
    code_shape: tuple[int, int] | None,
    num_codebooks: int,
    *,
    name: str = "codes.npy",
) -> None:
    """Raise `VqtrtError` unless integer codes (N, h, w[, C]) fit a model; reads chunk by chunk.

    `code_shape` is (h, w), or None if the model takes any. The first value outside 0 to
    codebook_size - 1 is named with its row and place.
    """
    if codes.dtype.kind not in "iu":
        raise VqtrtError(f"{name}: holds {codes.dtype}, but codes are integers; cast them first")
    extra = (num_codebooks,) if num_codebooks > 1 else ()
    fits = codes.ndim == 3 + len(extra) and codes.shape[3:] == extra and 0 not in codes.shape[1:]
    if not fits or (code_shape is not None and codes.shape[1:3] != tuple(code_shape)):
        raise VqtrtError(
            f"{name}: has shape {codes.shape}, but the model takes "
            f"{form((*(code_shape or ('h', 'w')), *extra))}; give the bundle that made these codes"
        )
    check_values(codes, codebook_size, name)


def check_values(codes: NDArray[Any], codebook_size: int | None, name: str) -> None:
    """Raise `VqtrtError` for the first code that is negative, or `codebook_size` or more."""
    if bad := first_bad(codes, codebook_size):
        place, value, reason = bad
        row, *rest = place
        raise VqtrtError(
            f"{name}: row {row} at ({', '.join(map(str, rest))}) holds {value}, but {reason}"
        )


def first_bad(
    codes: NDArray[Any], codebook_size: int | None
) -> tuple[tuple[int, ...], int, str] | None:
    """The first negative code, or the first that is codebook_size or more; reads chunk by chunk.

    Its index, its value, and what is wrong with it.
    """
    limits = np.iinfo(codes.dtype)
    if limits.min == 0 and (codebook_size is None or limits.max < codebook_size):
        return None
    top = limits.max if codebook_size is None else codebook_size - 1
    for start, chunk in _chunks(codes):
        if chunk.size and (int(chunk.min()) < 0 or int(chunk.max()) > top):
            bad = (chunk < 0) | (chunk > top)
            row, *place = (int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
            value = int(chunk[(row, *place)])
            if codebook_size is None:
                return (start + row, *place), value, "codes are never negative"
            reason = f"the codebook has {codebook_size} entries (0 to {top})"
            return (start + row, *place), value, reason
    return None


def _chunks(codes: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Consecutive rows of about `CHUNK_BYTES`, each with the index of its first."""
    row_bytes = max(1, int(np.prod(codes.shape[1:])) * codes.dtype.itemsize)
    step = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, len(codes), step):
        yield start, codes[start : start + step]


def form(row_shape: tuple[Any, ...]) -> str:
    """The shape of an array of rows, for a message."""
    return f"(N, {', '.join(map(str, row_shape))})"
