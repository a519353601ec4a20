"""All codes one after the other as uint16, as nanoGPT and its like map them (`.bin`)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Header
from vqtrt.formats.shard_codes import Coded


def write_flat(path: Path, header: Header, items: Iterator[Coded]) -> None:
    """Write the codes of all items in their order, little-endian.

    Raises `VqtrtError` for a codebook of more than 65,536 entries.
    """
    if header.codebook_size > 1 << 16:
        raise VqtrtError(
            f"codes up to {header.codebook_size - 1} do not fit into 16 bits; convert to .parquet"
        )
    with path.open("wb") as file:
        for item in items:
            file.write(np.ascontiguousarray(item.codes, "<u2").tobytes())
