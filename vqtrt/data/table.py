"""Parquet files, and folders that Hugging Face's `save_to_disk` wrote: a row is an item.

Notable:
- A column holds the files' bytes: binary, or a struct with `bytes` and perhaps `path`.
- Memory is bounded whatever the size of a row group: it is read some rows at a time, in order, and
  what was read last is kept for the threads that are a little behind. What has to be in memory as a
  whole is a page, of 1,024 rows at most. Arrow files are mapped.
"""

import json
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from vqtrt.data.remote import RemoteFile, RemoteStream
from vqtrt.data.source import Stored
from vqtrt.errors import VqtrtError
from vqtrt.system.files import read_or_raise
from vqtrt.system.names import brief, printable

STATE = "state.json"
_BATCH = 32
"""Rows that are read at once."""
_KEPT = 32 << 20
"""Bytes of rows that are kept."""
_MAX_STATE = 64 << 20


TablePath = Path | RemoteFile
"""A Parquet file, also behind a URL, or a folder that `save_to_disk` wrote."""


@dataclass(frozen=True)
class Cell(Stored):
    """The bytes of a row."""

    table: "Table"
    row: int

    def __str__(self) -> str:
        return f"{self.table.path}[{self.row}]"

    def read(self) -> bytes:
        """The bytes; raises `OSError` if the row has none, `VqtrtError` if the table is damaged."""
        data = self.table.read(self.row)
        if data is None:
            raise OSError(0, "the row has no bytes", str(self))
        return data


class _Rows(Protocol):
    """Values of one column."""

    def read(self, row: int) -> bytes | None:
        """Those of a row; None for null."""


def is_table(path: Path) -> bool:
    """Whether a path is a Parquet file, or a folder that `save_to_disk` wrote."""
    return path.suffix.lower() == ".parquet" or (path / STATE).is_file()


class Table:
    """The rows of a Parquet file or a folder of Arrow files; `column` has the bytes.

    Without a column, the first of the `usual` names, or the only column that can have them. Raises
    `VqtrtError` if that is not clear, or if the files are damaged; `ModuleNotFoundError` without
    the extra `scale`.
    """

    def __init__(self, path: TablePath, column: str | None, usual: tuple[str, ...]) -> None:
        self.path, self._usual = path, usual
        with _reporting(path):
            self._files = _arrow_files(path)
            """Those of a folder; none of a Parquet file."""
            self.schema = self._open_schema()
            self.column = self._chosen(column)
            self._values = self._open_rows()
            self.count = self._count()
        self.has_struct = _is_struct(self.schema.field(self.column).type)

    def read(self, row: int) -> bytes | None:
        """The bytes of a row; None if it has none."""
        with _reporting(self.path):
            return self._values.read(row)

    @cached_property
    def stamp(self) -> str:
        """What tells that the table changed: its size in bytes, when it was first asked for."""
        if isinstance(self.path, RemoteFile):
            return self.path.stamp
        return str(sum(file.stat().st_size for file in self._files or [self.path]))

    def cell(self, row: int, name: str) -> Cell:
        """The bytes of a row, to be read later."""
        return Cell(name, self, row)

    def names(self) -> Iterator[str]:
        """The path that each row tells, or the table's name with the row's number."""
        paths: Iterator[Any] = iter(())
        if self.has_struct and _has_field(self.schema.field(self.column).type, "path"):
            paths = self.values(self.column, "path")
        for row in range(self.count):
            told = next(paths, None)
            yield str(told) if told else f"{self.path.name}[{row}]"

    def values(self, column: str, field: str | None = None) -> Iterator[Any]:
        """The values of a small column, or of a field of a struct; None for null."""
        with _reporting(self.path):
            for batch in self._batches(column, field):
                yield from batch.to_pylist()

    @cached_property
    def features(self) -> dict[str, Any]:
        """What Hugging Face's metadata say of the columns."""
        try:
            found = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
            features = found["info"]["features"]
        except (ValueError, KeyError, TypeError):
            return {}
        return features if isinstance(features, dict) else {}

    def first_column(self, *names: str) -> str | None:
        """The first of some columns that the table has."""
        return next((name for name in names if name in self.schema.names), None)

    def _open_schema(self) -> Any:
        if self._files:
            return _stream(self._files[0]).schema
        return _parquet(self.path).schema_arrow

    def _chosen(self, column: str | None) -> str:
        fitting = [field.name for field in self.schema if _holds_bytes(field.type)]
        if column is None:
            column = next((name for name in self._usual if name in fitting), None)
        if column is None and len(fitting) == 1:
            return str(fitting[0])
        if column in fitting:
            return str(column)
        had = ", ".join(brief(name) for name in self.schema.names[:20])
        what = "no column of bytes" if not fitting else f"columns of bytes: {', '.join(fitting)}"
        if column is not None:
            what = f"no column {brief(column)} of bytes"
        raise VqtrtError(
            f"{printable(self.path)}: has {what} (all: {had}); name one as {printable(self.path)}"
            ":COLUMN"
        )

    def _open_rows(self) -> _Rows:
        field = "bytes" if _is_struct(self.schema.field(self.column).type) else None
        if self._files:
            return _ArrowRows(self._files, self.column, field)
        return _ParquetRows(self.path, self.column, field)

    def _count(self) -> int:
        if self._files:
            return sum(batch.num_rows for file in self._files for batch in _stream(file))
        return int(_parquet(self.path).metadata.num_rows)

    def _batches(self, column: str, field: str | None) -> Iterator[Any]:
        for file in self._files:
            for batch in _stream(file):
                yield _inner(batch.column(column), field)
        if not self._files:
            leaf = column if field is None else f"{column}.{field}"
            for batch in _parquet(self.path).iter_batches(batch_size=4096, columns=[leaf]):
                yield _inner(batch.column(0), field)


class _ParquetRows:
    """A column of bytes, read in order some rows at a time."""

    def __init__(self, path: TablePath, column: str, field: str | None) -> None:
        self._file, self._field = _parquet(path), field
        self._leaf = column if field is None else f"{column}.{field}"
        groups = self._file.metadata.num_row_groups
        self._starts = [0]
        for group in range(groups):
            self._starts.append(self._starts[-1] + self._file.metadata.row_group(group).num_rows)
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, list[bytes | None]]] = deque()
        self._bytes = self._next = self._since = 0
        self._pool = _default_pool()
        self._batches: Iterator[Any] = iter(())

    def read(self, row: int) -> bytes | None:
        """Those of a row; going back further than what is kept reads its row group anew."""
        with self._lock:
            if not self._kept or row < self._kept[0][0] or row >= self._next + 64 * _BATCH:
                self._restart(row)
            while self._next <= row:
                self._advance()
            first, values = next(kept for kept in reversed(self._kept) if kept[0] <= row)
        return values[row - first]

    def _restart(self, row: int) -> None:
        group = bisect_right(self._starts, row) - 1
        self._kept.clear()
        self._bytes, self._next = 0, self._starts[group]
        groups = range(group, len(self._starts) - 1)
        self._batches = self._read_groups(groups)

    def _read_groups(self, groups: range) -> Iterator[Any]:
        for group in groups:
            yield from self._file.iter_batches(
                batch_size=_BATCH, row_groups=[group], columns=[self._leaf], use_threads=False
            )

    def _advance(self) -> None:
        # Copies: a slice would keep its whole page in memory.
        values = _inner(next(self._batches).column(0), self._field).to_pylist()
        self._kept.append((self._next, values))
        self._next += len(values)
        self._bytes += _size(values)
        while self._bytes > _KEPT and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popleft()[1])
        self._since += _size(values)
        if self._since > _KEPT:
            # Pages that were freed stay with the allocator otherwise: 200 MiB of pages of 100 MiB.
            self._pool.release_unused()
            self._since = 0


class _ArrowRows:
    """A column of bytes in mapped files."""

    def __init__(self, files: list[Path], column: str, field: str | None) -> None:
        self._values = [
            _inner(batch.column(column), field) for file in files for batch in _stream(file)
        ]
        self._starts = [0]
        for values in self._values:
            self._starts.append(self._starts[-1] + len(values))

    def read(self, row: int) -> bytes | None:
        """Those of a row."""
        place = bisect_right(self._starts, row) - 1
        value = self._values[place][row - self._starts[place]]
        return value.as_py() if value.is_valid else None


def _default_pool() -> Any:
    import pyarrow

    return pyarrow.default_memory_pool()


def _size(values: list[bytes | None]) -> int:
    return sum(len(value) for value in values if value is not None)


def _parquet(path: TablePath) -> Any:
    import pyarrow.parquet

    file = RemoteStream(path) if isinstance(path, RemoteFile) else path
    # The defaults read whole row groups ahead.
    return pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)


def _stream(path: Path) -> Any:
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))


def _arrow_files(folder: TablePath) -> list[Path]:
    if isinstance(folder, RemoteFile) or (folder.suffix.lower() == ".parquet" and folder.is_file()):
        return []
    path = folder / STATE
    wrong = f"{printable(path)}: no state that save_to_disk wrote; write the data set again"
    data = read_or_raise(path, _MAX_STATE, VqtrtError, missing=wrong, large=wrong)
    try:
        names = [str(file["filename"]) for file in json.loads(data)["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise VqtrtError(wrong) from error
    if not names or any("/" in name or name in (".", "..") for name in names):
        raise VqtrtError(wrong)
    return [folder / name for name in names]


def _inner(values: Any, field: str | None) -> Any:
    """The values, or a field of each; null where the struct is."""
    if field is None:
        return values
    import pyarrow.compute

    return pyarrow.compute.struct_field(values, field)


def _is_struct(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_struct(kind))


def _has_field(kind: Any, name: str) -> bool:
    return int(kind.get_field_index(name)) >= 0


def _holds_bytes(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return _has_field(kind, "bytes") and _holds_bytes(kind.field("bytes").type)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


class _reporting:  # noqa: N801 - used like a function
    """Turn what pyarrow raises on damaged files into a `VqtrtError`."""

    def __init__(self, path: TablePath) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: object) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException | OSError | StopIteration):
            text = brief(str(error).splitlines()[0] if str(error) else "it ends too soon")
            raise VqtrtError(
                f"{printable(self._path)}: cannot be read as a table ({text}); copy or write it "
                "once more"
            ) from error
