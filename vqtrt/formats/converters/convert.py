"""From codes to one file of another format, by the ending of its name."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vqtrt.errors import VqtrtError, unwritable
from vqtrt.formats.audio_codes import ClipHeader
from vqtrt.formats.codes import CodesHeader
from vqtrt.formats.converters.flat import write_flat
from vqtrt.formats.converters.jsonl import write_jsonl
from vqtrt.formats.converters.parquet import write_parquet
from vqtrt.formats.converters.webdataset import write_webdataset
from vqtrt.formats.items import open_codes
from vqtrt.formats.shard_codes import Coded
from vqtrt.system.atomic import check_file, replacing_file

Write = Callable[[Path, CodesHeader | ClipHeader, Iterator[Coded]], None]
FORMATS: dict[str, Write] = {
    ".bin": write_flat,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
    ".tar": write_webdataset,
}
"""What writes items, by the ending of the file's name."""


def check_convertible(to: Path) -> None:
    """Raise `VqtrtError` if `to` names no such format, or cannot be written."""
    if to.suffix not in FORMATS:
        raise VqtrtError(f"{to}: --to must end in .npy, {', '.join(FORMATS)}")
    check_file(to)


def convert_codes(path: Path, to: Path) -> int:
    """Write the codes of a file or a folder of shards to `to`; returns the number of items.

    The file appears when it is whole. Raises `VqtrtError` if the codes cannot be read, if `to`
    cannot be written, or if its format cannot hold them.
    """
    check_convertible(to)
    codes = open_codes(path)
    header: Any = codes.header
    if header is None:
        raise VqtrtError(f"{path}: has no .json that says what the codes are; encode again")
    try:
        with replacing_file(to) as stage:
            FORMATS[to.suffix](stage, header, codes.each())
    except OSError as error:
        raise unwritable(to, error) from error
    return len(codes)
