"""Codes as Parquet files that `load_dataset("parquet", …)` and DuckDB read; needs pyarrow.

A row has `id`, `label` (-1 for none) and `codes`; of audio also `samples`. Codes of images are
lists of one length, h·w·C, row by row; the metadata `vqtrt` hold the header with the shape. There
is no extension type, which Hugging Face would not load. The same rows give the same bytes with the
same version of pyarrow.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipHeader
from vqtrt.formats.codes import CodesHeader, Numbers
from vqtrt.system.names import brief, printable

GROUP = 10_000
"""Items in a row group at most."""


class Group(NamedTuple):
    """Some items."""

    names: Sequence[str]
    numbers: Sequence[Numbers]
    """Label, and of audio codes and samples."""
    codes: NDArray[Any]
    """(n, h, w[, C]) of images; of audio the codes of all clips in one row."""


def write_groups(
    to: Path | BinaryIO, header: CodesHeader | ClipHeader, groups: Iterable[Group]
) -> None:
    """Write items, each group of `GROUP` at most as a row group."""
    import pyarrow.parquet as pq

    schema = _schema(header)
    # Codes repeat: a dictionary packs them to log2 K bits.
    with pq.ParquetWriter(
        to, schema, compression="zstd", use_dictionary=["label", "codes.list.element"]
    ) as writer:
        for group in groups:
            writer.write_table(_table(schema, group))


def read_codes_column(path: Path, header: CodesHeader | ClipHeader) -> NDArray[Any]:
    """The codes of all items: (n, h, w[, C]) of images, in one row of audio.

    Raises `VqtrtError` if the file cannot be read, or has other codes.
    """
    import pyarrow
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(path, columns=["codes"]).column(0)
        if column.type != _schema(header).field("codes").type or column.null_count:
            raise VqtrtError(f"{printable(path)}: has codes of another type; encode again")
        flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        text = brief(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise VqtrtError(f"{printable(path)}: cannot be read ({text}); encode again") from error
    empty = np.empty(0, header.dtype)
    return np.concatenate([empty, *flat]).reshape(-1, *header.row_shape)


def _schema(header: CodesHeader | ClipHeader) -> Any:
    import pyarrow as pa

    clips = isinstance(header, ClipHeader)
    kind = pa.from_numpy_dtype(header.dtype)
    length = -1 if clips else int(np.prod(header.row_shape))
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("codes", pa.list_(pa.field("element", kind, nullable=False), length), False),
    ]
    if clips:
        fields.append(pa.field("samples", pa.int64(), nullable=False))
    # Sorted: a header that was read from job.json has another order.
    known = json.dumps(header.model_dump(mode="json"), sort_keys=True)
    return pa.schema(fields, {"vqtrt": known})


def _table(schema: Any, group: Group) -> Any:
    import pyarrow as pa

    kind = schema.field("codes").type
    flat = pa.array(group.codes.ravel(), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        codes = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    else:
        ends = np.cumsum([0, *(numbers[1] for numbers in group.numbers)], dtype=np.int32)
        codes = pa.ListArray.from_arrays(pa.array(ends), flat, type=kind)
    columns = {
        "id": [name.encode("utf-8", "backslashreplace").decode() for name in group.names],
        "label": [numbers[0] for numbers in group.numbers],
        "codes": codes,
    }
    if "samples" in schema.names:
        columns["samples"] = [numbers[2] for numbers in group.numbers]
    return pa.table(columns, schema=schema)
