"""The job that scores a prior: on a codes file, or on data that are encoded for it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vqtrt.formats.codes import is_codes


@contextmanager
def codes_of(data: str, encode: Callable[[Path], object]) -> Iterator[Path]:
    """The codes file that `data` is, or one that `encode` writes, as long as the block runs."""
    if is_codes(Path(data)):
        yield Path(data)
        return
    with tempfile.TemporaryDirectory(prefix="vqtrt-score-") as scratch:
        path = Path(scratch) / "codes.npy"
        encode(path)
        yield path


def gains(bits: float, unigram_bits: float) -> dict[str, Any]:
    """What a prior gains over the frequencies of the codes alone, in bits per code."""
    return {
        "bits_per_code": bits,
        "unigram_bits": unigram_bits,
        "gain_bits": unigram_bits - bits,
    }
