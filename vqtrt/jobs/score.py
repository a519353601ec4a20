"""The job that scores a prior: on a codes file, or on data that are encoded for it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqtrt.formats.codes import is_codes
from vqtrt.formats.shards import is_sharded


def score_data(
    data: str, encode: Callable[[Path], object], score: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """What `score` gives of the codes file that `data` is, or of one that `encode` writes."""
    if is_codes(Path(data)) or is_sharded(Path(data)):
        return score(Path(data))
    with tempfile.TemporaryDirectory(prefix="vqtrt-score-") as scratch:
        path = Path(scratch) / "codes.npy"
        encode(path)
        return score(path)


def gains(bits: float, unigram_bits: float) -> dict[str, Any]:
    """What a prior gains over the frequencies of the codes alone, in bits per code."""
    return {
        "bits_per_code": bits,
        "unigram_bits": unigram_bits,
        "gain_bits": unigram_bits - bits,
    }
