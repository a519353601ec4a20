"""The journal of a codes file in the making: JSON lines, of which the last may be torn.

Notable: the first line is `{"header": …}`; then, in order, `[name, label]` an image, or `[name,
label, codes, samples]` a clip; `{"reject": …, "reason": …}` an item without a row; and `{"commit":
rows, "files": items, "content": sha256}`, with the rows of the array so far and a hash of what the
items were made of, if the job tells. A commit counts only if every line before
it is whole and adds up to its numbers: after a power cut, a file may hold anything past its last
sync.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Header, Numbers
from vqtrt.system.locks import open_locked

BUFFER_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20


class Commit(NamedTuple):
    """A point to resume from."""

    rows: int
    """Of the array."""
    files: int
    """Items done, written or rejected."""
    written: int
    """Items that have rows."""
    journal_bytes: int
    """The journal's length up to and with the commit's line."""
    content_sha256: str | None = None
    """Of what the items were made of, if the job told."""


class Appender:
    """A file that grows at its end, over a descriptor that it owns.

    Not Python's buffered file: that one tries its failed write again when it is closed, and a full
    disk would then be reported twice, the second time from where nobody can catch it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self.size = os.fstat(fd).st_size

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open for appending; made if missing.

        Never through a link: the name can be foreseen by others who may write in the folder.
        """
        return cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))

    def append(self, data: bytes) -> None:
        """Add bytes; they reach the file when the buffer is full or at `sync`."""
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()

    def sync(self) -> None:
        """Return once everything is on disk."""
        self._flush()
        os.fsync(self._fd)

    def truncate(self, size: int) -> None:
        """Drop what lies past `size` bytes and append from there."""
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)
        self.size = size

    def patch(self, data: bytes) -> None:
        """Overwrite the file's first bytes, on disk when this returns."""
        if os.pwrite(self._fd, data, 0) != len(data):
            raise OSError("short write of the header")
        os.fsync(self._fd)

    @classmethod
    def open_alone(cls, path: Path, out: Path) -> Self:
        """Open for appending as the only process that does, until it is closed or killed.

        Raises `VqtrtError` where another process has it, which is then writing `out`.
        """
        return cls(open_locked(path, out))

    def close(self) -> None:
        """Close without flushing: what is not synced is given up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _flush(self) -> None:
        with memoryview(self._buffer) as view:
            done = 0
            while done < len(view):
                done += os.write(self._fd, view[done:])
        self._buffer.clear()


def last_commit(journal: Path, header: Header, rows_on_disk: int) -> Commit | None:
    """The last commit that holds, or None where there is nothing to resume.

    Raises `VqtrtError` where the journal was begun with another header, `OSError` where it cannot
    be read.
    """
    if not journal.is_file() or rows_on_disk < 0:
        return None
    found: Commit | None = None
    rows = files = written = end = 0
    for line in whole_lines(journal):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        end += len(line)
        if end == len(line):
            if not isinstance(entry, dict) or not isinstance(entry.get("header"), dict):
                break
            require_same(entry["header"], header, journal.with_suffix(""))
        elif isinstance(entry, list):
            more = rows_of(entry, header)
            if more is None:
                break
            rows, files, written = rows + more, files + 1, written + 1
        elif isinstance(entry, dict) and "reject" in entry:
            files += 1
        elif _is_commit(entry, rows, files) and rows <= rows_on_disk:
            found = Commit(rows, files, written, end, entry.get("content"))
        else:
            break
    return found


def _is_commit(entry: Any, rows: int, files: int) -> bool:
    known = {"commit": rows, "files": files}
    if isinstance(entry, dict) and type(entry.get("content")) is str:
        known["content"] = entry["content"]
    return bool(entry == known)


def rows_of(entry: list[Any], header: Header) -> int | None:
    """Rows of an item; None for a line that no item has."""
    if not entry or type(entry[0]) is not str or any(type(part) is not int for part in entry[1:]):
        return None
    return header.rows_of(tuple(entry[1:]))


def write_json(path: Path, header: Header, head: dict[str, Any], journal: Path) -> None:
    """Write the final JSON, one element a line, from a synced journal; synced when it returns.

    `head` is what it begins with; the lists of the items follow.
    """
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    out = Appender(fd)
    try:
        for key, value in head.items():
            out.append(f"{'{' if not out.size else ','}\n{json.dumps(key)}: ".encode())
            out.append(json.dumps(value).encode("ascii"))
        out.append(b',\n"files": [')
        _append_list(out, (json.dumps(name).encode("ascii") for name, _ in _items(journal)))
        columns = header.columns(lambda: (numbers for _, numbers in _items(journal)))
        for key, column in columns.items():
            out.append(f",\n{json.dumps(key)}: [".encode())
            _append_list(out, (b"%d" % number for number in column))
        out.append(b',\n"rejected": [')
        _append_list(out, map(_reject_element, rejects(journal)))
        out.append(b"\n}\n")
        out.sync()
    finally:
        out.close()


def _append_list(out: Appender, elements: Iterator[bytes]) -> None:
    """The elements and the closing bracket."""
    for i, element in enumerate(elements):
        out.append((b",\n" if i else b"\n") + element)
    out.append(b"]")


def _items(journal: Path) -> Iterator[tuple[str, Numbers]]:
    """Names of what has rows, and what else is known of it."""
    for line in whole_lines(journal):
        if line.startswith(b"["):
            name, *numbers = json.loads(line)
            yield name, tuple(numbers)


def rejects(journal: Path) -> Iterator[tuple[str, str]]:
    """Names of the items without a row, each with the reason."""
    for line in whole_lines(journal):
        if line.startswith(b'{"reject"'):
            entry = json.loads(line)
            yield str(entry["reject"]), str(entry.get("reason", ""))


def _reject_element(reject: tuple[str, str]) -> bytes:
    file, reason = reject
    return json.dumps({"file": file, "reason": reason}).encode("ascii")


def whole_lines(journal: Path) -> Iterator[bytes]:
    """Whole lines with their newline; ends before a torn or endless one."""
    with journal.open("rb") as file:
        while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
            yield line


_IN_WORDS = {"listing_sha256": "the data's list of files", "weights_sha256": "the model"}
"""What it means that one of the hashes differs: the hash itself says nothing to a user."""


def require_same(old: dict[str, Any], header: Header, begun: Path) -> None:
    """Raise `VqtrtError` where `begun` has the header `old`, of another job than `header`."""
    # Through JSON, which makes lists of tuples, as it did with the old one. The hashes say what
    # the data and the model are; how their paths were typed does not matter.
    new = json.loads(json.dumps(header.model_dump(exclude={"root", "model"})))
    old = {key: value for key, value in old.items() if key not in ("root", "model")}
    for field in [*new, *(old.keys() - new.keys())]:
        if old.get(field) != new.get(field):
            then, now = (ascii(side.get(field))[:60] for side in (old, new))
            what = f"begun with another {ascii(field)[1:-1][:60]} ({then} then, {now} now)"
            if field in _IN_WORDS:
                what = f"{_IN_WORDS[field]} changed since it was begun"
            raise VqtrtError(f"{begun}: {what}; mend that, or start anew without --resume")
