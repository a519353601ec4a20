"""Writing a shard: its rows as .npy or .parquet, then the .jsonl that says it is there."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from vqtrt.errors import unwritable
from vqtrt.formats.audio_codes import ClipHeader
from vqtrt.formats.codes import CodesHeader, H, Numbers
from vqtrt.formats.codes_writer import (
    WritesClips,
    WritesImages,
    item_lines,
    npy_header,
    reject_line,
)
from vqtrt.formats.parquet import GROUP, Group, write_groups
from vqtrt.formats.shards import Job, ShardDone, lines_path, rows_path
from vqtrt.system.atomic import write_bytes


class ShardWriter(Generic[H]):
    """Takes the codes of a shard's items in their order; `finish` puts the shard into place.

    It holds them in memory: a shard is small beside the images or the audio of a batch.
    """

    def __init__(self, folder: Path, job: Job, number: int) -> None:
        if job.format == "parquet":
            import pyarrow  # noqa: F401 - that it is missing is told now, not after the work
        self._folder, self._job, self._number = folder, job, number
        self.header: H = job.header  # type: ignore[assignment]
        self._names: list[str] = []
        self._numbers: list[Numbers] = []
        self._codes: list[NDArray[Any]] = []
        self._lines: list[bytes] = []
        self._array_rows = self.written = self.files_done = 0

    def _append(
        self, names: Sequence[str], numbers: Sequence[Numbers], codes: NDArray[Any]
    ) -> None:
        if len(names):
            self._lines.append(item_lines(self._folder, self.header, names, numbers, codes))
            self._codes.append(np.ascontiguousarray(codes, self.header.dtype))
            self._names += names
            self._numbers += numbers
            self._array_rows += len(codes)
            self.written += len(names)
            self.files_done += len(names)

    def reject(self, name: str, reason: str) -> None:
        """Record that an item has no codes, and why."""
        self._lines.append(reject_line(name, reason))
        self.files_done += 1

    def finish(self, content_sha256: str) -> ShardDone:
        """Write both files, each whole or not at all; raises `VqtrtError` if that fails."""
        data = self._npy() if self._job.format == "npy" else self._parquet()
        digest = hashlib.sha256(data).hexdigest()
        lines, rejected = b"".join(self._lines), self.files_done - self.written
        listed = hashlib.sha256(lines).hexdigest()
        done = ShardDone(self.written, rejected, digest, listed, content_sha256, self._job.sha256)
        last = json.dumps({"shard": self._number, **done._asdict()}).encode() + b"\n"
        try:
            write_bytes(rows_path(self._folder, self._job, self._number), data)
            write_bytes(lines_path(self._folder, self._number), lines + last)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        return done

    def _npy(self) -> bytes:
        head = npy_header(self.header.dtype, self.header.row_shape, self._array_rows)
        return head + b"".join(part.tobytes() for part in self._codes)

    def _parquet(self) -> bytes:
        rows = np.concatenate(
            [np.empty((0, *self.header.row_shape), self.header.dtype), *self._codes]
        )
        groups, start = [], 0
        for first in range(0, len(self._names), GROUP):
            names = self._names[first : first + GROUP]
            numbers = self._numbers[first : first + GROUP]
            stop = start + sum(self.header.rows_of(known) or 0 for known in numbers)
            groups.append(Group(names, numbers, rows[start:stop]))
            start = stop
        file = io.BytesIO()
        write_groups(file, self._job.header, groups)
        return file.getvalue()


class ImageShard(WritesImages, ShardWriter[CodesHeader]):
    """Writes a shard of images."""


class ClipShard(WritesClips, ShardWriter[ClipHeader]):
    """Writes a shard of clips."""
