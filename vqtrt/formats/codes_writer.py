"""Writing the codes artefact so that a machine that dies at 80 % loses seconds, not hours.

Notable: rows go to `NAME.npy.partial`, what is known of them to a journal `NAME.npy.partial.jsonl`,
so memory stays flat; a commit syncs the data first and only then adds its line to the journal, so
that whatever the journal says is on disk, is. Resuming goes back to the last commit. `NAME.npy` is
renamed into place last: if it exists, it is whole.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.rejects import reject_kinds
from vqtrt.errors import VqtrtError, add_hint, unwritable
from vqtrt.formats.audio_codes import ClipHeader, codes_in, read_clip_codes
from vqtrt.formats.codes import FORMAT_VERSION, CodesHeader, H, Header, Numbers, read_codes
from vqtrt.formats.journal import Appender, Commit, last_commit, rejects, require_same, write_json
from vqtrt.system.atomic import check_file, followed, sync_folder
from vqtrt.system.interrupts import check, noted
from vqtrt.system.locks import only_writer

_NOTHING = Commit(0, 0, 0, 0)


def npy_header(dtype: np.dtype[Any], row_shape: tuple[int, ...], rows: int) -> bytes:
    """A version 1.0 .npy header whose length does not depend on `rows`, to be patched in place."""

    def text(count: int) -> str:
        shape = (count, *row_shape)
        return f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"

    fixed = 10  # magic, version, length of the text
    total = -(-(fixed + len(text(1 << 62)) + 1) // 64) * 64
    body = text(rows).ljust(total - fixed - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body.encode("ascii")


def partials(out: Path) -> tuple[Path, Path]:
    """Where the rows and the journal of `out` are while it is written."""
    return out.parent / f"{out.name}.partial", out.parent / f"{out.name}.partial.jsonl"


def check_codes_out(out: Path) -> None:
    """Raise `VqtrtError` if no codes file `out` can be written, before the work is done."""
    if out.is_dir():
        raise VqtrtError(f"{out}: is a folder; give --out a file name that ends in .npy")
    if out.suffix != ".npy":
        raise VqtrtError(f"{out}: --out must end in .npy")
    check_file(out)
    json_path = out.with_suffix(".json")
    if json_path.is_dir():
        raise VqtrtError(f"{json_path}: is a folder; move it away or change --out")


def is_complete(out: Path, header: CodesHeader | ClipHeader) -> bool:
    """Whether an earlier job with this header has written all of `out`.

    Raises `VqtrtError` if `out` is there, and is of another job or of an unknown one.
    """
    partial, journal = partials(followed(out))
    if not out.is_file() or partial.exists():
        return False
    read = read_clip_codes if isinstance(header, ClipHeader) else read_codes
    old = read(out).header
    if old is None:
        raise VqtrtError(
            f"{out}: is there, without a .json that says what made it; start anew without --resume"
        )
    require_same(old.model_dump(mode="json"), header, out)
    if journal.exists():
        # Left by a process that was killed right at its end, unless one has just begun.
        with suppress(VqtrtError), only_writer(journal, out):
            pass
    return True


def item_lines(
    out: Path,
    header: Header,
    names: Sequence[str],
    numbers: Sequence[Numbers],
    codes: NDArray[Any],
) -> bytes:
    """What is known of some items, a line of JSON each; their codes and labels are checked."""
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= header.codebook_size:
        raise VqtrtError(
            f"{out}: the encoder gave code {low if low < 0 else high}, but the codebook "
            f"has {header.codebook_size} entries; run `vqtrt verify` on the bundle"
        )
    labels = [label for label, *_ in numbers]
    if header.classes and not -1 <= min(labels) <= max(labels) < len(header.classes):
        raise ValueError(f"labels outside -1 to {len(header.classes) - 1}")
    # json's ASCII escapes keep names that are not UTF-8, and newlines, on one line.
    lines = [json.dumps([n, *more]) for n, more in zip(names, numbers, strict=True)]
    return ("\n".join(lines) + "\n").encode("ascii")


def reject_line(name: str, reason: str) -> bytes:
    """The line of an item without a row."""
    return (json.dumps({"reject": name, "reason": reason}) + "\n").encode("ascii")


class ItemsWriter(Generic[H]):
    """Streams codes to `out` (.npy) and what is known of them to the .json beside it.

    Use it as a context manager: leaving without `finish` calls `abort`. `write` (of a subclass) and
    `reject` are called in the order of the listing, so that at each `commit` the items done are its
    first `files_done`. With `resume`, a writer starts at the last commit of an earlier one, and the
    caller skips that many items.

    Raises `VqtrtError` if `out` cannot be written, is being written by another process, or was
    begun with another header.
    """

    def __init__(self, out: Path, *, header: H, resume: bool) -> None:
        self.header = header
        self.json_path = followed(out.with_suffix(".json") if out.name else out)
        # Where a link leads: renamed over the link, the codes would not be where it says.
        self.out = out = followed(out)
        self.partial, self.journal = partials(out)
        self._json_partial = self.json_path.parent / f"{self.json_path.name}.partial"
        self._row_bytes = int(np.prod(header.row_shape)) * header.dtype.itemsize
        self._committed = _NOTHING
        self.content: Callable[[], str] | None = None
        """A hash of what the items so far were made of; each commit keeps it."""
        self._broken = self._closed = False
        check_codes_out(self.out)
        with self._reporting():
            self._log = Appender.open_alone(self.journal, self.out)
        try:
            with noted():
                with self._reporting():
                    self._data = Appender.open(self.partial)
                self._start(resume)
        except BaseException:
            # An empty journal is one that we made; the lock is still ours until the close.
            if not self._closed and not self._log.size:
                with suppress(OSError):
                    self.journal.unlink(missing_ok=True)
            self._close()
            raise
        try:
            check()
        except BaseException:
            self.abort()
            raise

    @property
    def rows(self) -> int:
        """Rows of the array so far, with those of the run that was resumed."""
        return self._rows

    @property
    def written(self) -> int:
        """Items so far that have rows."""
        return self._written

    @property
    def files_done(self) -> int:
        """Items so far, written or rejected; right after resuming, how many to skip."""
        return self._files

    @property
    def committed_content(self) -> str | None:
        """What `content` gave at the last commit; None if nothing did."""
        return self._committed.content_sha256

    def _append(
        self, names: Sequence[str], numbers: Sequence[Numbers], codes: NDArray[Any]
    ) -> None:
        """Append the rows of some items: integers (rows, *header.row_shape)."""
        header = self.header
        if not len(names):
            return
        lines = item_lines(self.out, header, names, numbers, codes)
        with self._reporting():
            self._data.append(np.ascontiguousarray(codes, header.dtype).tobytes())
            self._log.append(lines)
            self._rows += len(codes)
            self._files += len(names)
            self._written += len(names)

    def reject(self, name: str, reason: str) -> None:
        """Record that an item has no row, and why."""
        with self._reporting():
            self._log.append(reject_line(name, reason))
            self._files += 1

    def commit(self) -> None:
        """Make all so far durable: a resumed run starts here. Costs two fsyncs."""
        if self._files == self._committed.files:
            return
        known: dict[str, Any] = {"commit": self._rows, "files": self._files}
        if self.content is not None:
            known["content"] = self.content()
        line = json.dumps(known) + "\n"
        with self._reporting():
            self._data.sync()
            self._log.append(line.encode("ascii"))
            self._log.sync()
            self._committed = Commit(
                self._rows, self._files, self._written, self._log.size, known.get("content")
            )

    def rejected_kinds(self) -> dict[str, int]:
        """Items so far without a row, by kind, with those of the run that was resumed; commits."""
        self.commit()
        with self._reporting():
            return reject_kinds(rejects(self.journal))

    def finish(self) -> Path:
        """Write the JSON, move both files into place, and return `out`."""
        self.commit()
        with self._reporting():
            self._data.sync()
            self._data.patch(self._npy_header(self._rows))
            head = {"format_version": FORMAT_VERSION, **self.header.model_dump()}
            head["rows"] = self.written
            write_json(self._json_partial, self.header, head, self.journal)
            with noted():
                # An older result must not stand beside the new JSON, not even for a moment.
                self.out.unlink(missing_ok=True)
                self._json_partial.replace(self.json_path)
                sync_folder(self.json_path.parent)
                self.partial.replace(self.out)
                sync_folder(self.out.parent)
                self.journal.unlink(missing_ok=True)
                self._close()
        return self.out

    def abort(self) -> Path | None:
        """Stop: keep the partial and return its path if anything was committed, else remove it."""
        if self._closed:
            return None
        kept = self._committed.files > 0
        with suppress(OSError):
            self._json_partial.unlink(missing_ok=True)
        if not kept:
            for path in (self.partial, self.journal):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        self._close()
        return self.partial if kept else None

    def discard(self) -> None:
        """Stop, and keep nothing, whatever was committed."""
        self._committed = _NOTHING
        self.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        kept = self.abort()
        if kept is None or error is None:
            return
        hint = f"the first {self._committed.files} items are kept in {kept}; --resume continues"
        add_hint(error, hint)

    def _start(self, resume: bool) -> None:
        """Truncate data and journal to the last commit, or to nothing."""
        head = self._npy_header(0)
        found: Commit | None = None
        if resume:
            with self._reporting():
                space = self._data.size - len(head)
                found = last_commit(self.journal, self.header, space // self._row_bytes)
        self._committed = found or _NOTHING
        self._rows, self._files, self._written, end, _ = self._committed
        try:
            with self._reporting():
                self._log.truncate(end)
                self._data.truncate(len(head) + self._rows * self._row_bytes if found else 0)
                if found:
                    self._data.patch(head)
                    return
                self._data.append(head)
                line = json.dumps({"header": self.header.model_dump()}) + "\n"
                self._log.append(line.encode("ascii"))
                self._data.sync()
                self._log.sync()
        except BaseException:
            self.abort()
            raise

    def _npy_header(self, rows: int) -> bytes:
        return npy_header(self.header.dtype, self.header.row_shape, rows)

    def _close(self) -> None:
        self._closed = True
        if hasattr(self, "_data"):
            self._data.close()
        self._log.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn an `OSError` into a `VqtrtError`, after which this writer only aborts."""
        if self._broken or self._closed:
            raise ValueError("this writer is closed")
        try:
            yield
        except OSError as err:
            self._broken = True
            raise unwritable(self.out, err) from err


class WritesImages:
    """`write` of a writer of images, each of which is one row."""

    header: CodesHeader
    files_done: Any
    reject: Callable[[str, str], None]
    _append: Callable[[Sequence[str], Sequence[Numbers], NDArray[Any]], None]

    def write(self, names: Sequence[str], labels: Sequence[int], codes: NDArray[Any]) -> None:
        """Append n rows: names and labels (-1 for none) of length n, integers (n, h, w[, C])."""
        shape = (len(names), *self.header.row_shape)
        if codes.shape != shape or codes.dtype.kind not in "iu" or len(labels) != len(names):
            raise ValueError(f"codes {codes.dtype} {codes.shape}, {len(labels)} labels: {shape}")
        self._append(names, [(int(label),) for label in labels], codes)


class WritesClips:
    """`write` of a writer of clips, each of which is as many rows as it has codes."""

    header: ClipHeader
    files_done: Any
    reject: Callable[[str, str], None]
    _append: Callable[[Sequence[str], Sequence[Numbers], NDArray[Any]], None]

    def write(
        self,
        names: Sequence[str],
        labels: Sequence[int],
        clips: Sequence[NDArray[Any]],
        samples: Sequence[int],
    ) -> None:
        """Append n clips: names, speakers (-1 for none), integers (t,) and lengths in samples."""
        stride = self.header.stride
        if not len(names) == len(labels) == len(clips) == len(samples):
            counts = (len(names), len(labels), len(clips), len(samples))
            raise ValueError(f"names, labels, clips and samples: {counts}")
        for codes, count in zip(clips, samples, strict=True):
            shape = (codes_in(count, stride),)
            if count < 1 or codes.shape != shape or codes.dtype.kind not in "iu":
                raise ValueError(f"codes {codes.dtype} {codes.shape} of {count} samples: {shape}")
        numbers = [
            (int(label), len(codes), int(count))
            for label, codes, count in zip(labels, clips, samples, strict=True)
        ]
        if clips:
            self._append(names, numbers, np.concatenate(clips))


class CodesWriter(WritesImages, ItemsWriter[CodesHeader]):
    """Writes the codes of images."""


class ClipWriter(WritesClips, ItemsWriter[ClipHeader]):
    """Writes the codes of clips."""
