"""A Parquet file that `load_dataset("parquet", …)` and DuckDB read (`.parquet`)."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vqtrt.formats import parquet
from vqtrt.formats.audio_codes import ClipHeader
from vqtrt.formats.codes import CodesHeader
from vqtrt.formats.parquet import Group, write_groups
from vqtrt.formats.shard_codes import Coded


def write_parquet(path: Path, header: CodesHeader | ClipHeader, items: Iterator[Coded]) -> None:
    """Write all items as `formats/parquet.py` says."""
    write_groups(path, header, _groups(items))


def _groups(items: Iterator[Coded]) -> Iterator[Group]:
    while some := list(itertools.islice(items, parquet.GROUP)):
        numbers = [(item.label, len(item.codes), item.samples or 0) for item in some]
        codes = np.concatenate([item.codes.ravel() for item in some])
        yield Group([item.name for item in some], numbers, codes)
