"""A Parquet file that `load_dataset("parquet", …)` and DuckDB read (`.parquet`)."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vqtrt.formats.audio_codes import ClipHeader
from vqtrt.formats.codes import CodesHeader
from vqtrt.formats.shard_codes import Coded

_ROWS = 10_000
"""Items in a row group at most."""


def write_parquet(path: Path, header: CodesHeader | ClipHeader, items: Iterator[Coded]) -> None:
    """Write `id`, `label` and `codes`; of audio also `samples`.

    Codes of images are lists of one length, h·w·C, row by row; the metadata `vqtrt` hold the header
    with the shape. There is no extension type, which Hugging Face would not load. Needs pyarrow.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    schema = pa.schema(fields, {"vqtrt": json.dumps(header.model_dump(mode="json"))})
    # Codes repeat: a dictionary packs them to log2 K bits.
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=["label", "codes.list.element"],
    ) as writer:
        while group := list(itertools.islice(items, _ROWS)):
            writer.write_table(_table(pa, schema, group))


def _table(pa: Any, schema: Any, group: list[Coded]) -> Any:
    flat = pa.array(np.concatenate([item.codes.ravel() for item in group]))
    kind = schema.field("codes").type
    if pa.types.is_fixed_size_list(kind):
        codes = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    else:
        ends = np.cumsum([0, *(len(item.codes) for item in group)], dtype=np.int32)
        codes = pa.ListArray.from_arrays(pa.array(ends), flat, type=kind)
    columns = {
        "id": [item.name.encode("utf-8", "backslashreplace").decode() for item in group],
        "label": [item.label for item in group],
        "codes": codes,
    }
    if "samples" in schema.names:
        columns["samples"] = [item.samples for item in group]
    return pa.table(columns, schema=schema)
