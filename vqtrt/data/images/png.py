"""A PNG without the chunks that say nothing of its pixels.

Screenshots of workflow editors, slides and exports of design programs carry megabytes of text or
of color profile. Pillow refuses those beyond limits of its own, which belong to the whole process,
so they cannot be raised for one file; and what it takes, it keeps in memory. The pixels need none
of it.

Notable:
- Critical chunks and `tRNS` stay as they are, byte for byte, and so does a file that has no others.
- Of the rest only what may turn the picture stays: `eXIf`, and texts with EXIF or XMP. Together
  they may take `MAX_SIDE_BYTES`, decompressed; a text that is compressed is stored plainly.
- Of an animation the still image stays.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

from vqtrt.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_SIDE_BYTES = 16 << 20
"""Most that is kept of what is no pixel, of one file."""

_HEAD = struct.Struct(">I4s")
_PIXELS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"))
# Small, of fixed size, and read by Pillow without harm: nothing is gained by leaving them out.
_SMALL = frozenset((b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"bKGD", b"sBIT", b"tIME"))
_SMALL_BYTES = 64
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TURNING = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"exif")
"""Keywords of texts that may hold an orientation."""
_LONGEST_KEYWORD = 80

_MAX_PARTS = 1 << 16
"""Chunks between the others that are left out of one file."""

_Part = bytes | tuple[int, int]
"""A chunk that was made anew, or where bytes of the file lie: (start, stop)."""
_Read = Callable[[int, int], bytes]
"""The bytes of a file from start to stop."""


def only_pixels(data: bytes) -> bytes:
    """A PNG without what its pixels do not need; `data` itself if that is all it has.

    A damaged file stays damaged: what follows the last whole chunk is kept. Raises `ImageError` for
    more side chunks than any program writes.
    """
    parts = _parts(lambda start, stop: data[start:stop], len(data))
    if parts == [(0, len(data))]:
        return data
    view = memoryview(data)
    return b"".join(part if isinstance(part, bytes) else view[slice(*part)] for part in parts)


def only_pixels_of(file: BinaryIO) -> BinaryIO:
    """The same of a file on disk, which is read as the result is read."""
    size = file.seek(0, io.SEEK_END)

    def read(start: int, stop: int) -> bytes:
        file.seek(start)
        return file.read(stop - start)

    parts = _parts(read, size)
    file.seek(0)
    return file if parts == [(0, size)] else io.BufferedReader(_Joined(file, parts))


def _parts(read: _Read, size: int) -> list[_Part]:
    """What is kept of a file, in order; neighbours are joined."""
    parts: list[_Part] = []
    start, at, left = 0, len(SIGNATURE), MAX_SIDE_BYTES
    while at + 8 <= size:
        length, kind = _HEAD.unpack(read(at, at + 8))
        end = at + 12 + length
        if kind == b"IEND":
            break
        if kind not in _PIXELS and not (kind in _SMALL and length <= _SMALL_BYTES):
            parts.append((start, at))
            start = end
            kept = _turning(kind, read, at + 8, min(length, size - at - 8), left)
            if kept is not None:
                left -= len(kept)
                parts.append(kept)
            if len(parts) > _MAX_PARTS:
                raise ImageError("it has more chunks beside its pixels than any program writes")
        at = end
    if start < size:
        parts.append((start, size))
    return parts


def _turning(kind: bytes, read: _Read, start: int, length: int, left: int) -> bytes | None:
    """A chunk that may say how the picture is turned, stored plainly; None for others.

    Its data are `length` bytes from `start`; it may come to `left` bytes.
    """
    if kind in _TEXTS:
        head = read(start, start + min(length, _LONGEST_KEYWORD))
        if head.partition(b"\0")[0] not in _TURNING:
            return None
    elif kind != b"eXIf":
        return None
    if length > left:
        return None
    data = read(start, start + length)
    if kind == b"zTXt":
        # keyword, 0, method 0, compressed text
        keyword, _, rest = data.partition(b"\0")
        text = _inflated(rest[1:], left)
        kind, data = b"tEXt", b"" if text is None else keyword + b"\0" + text
    elif kind == b"iTXt":
        # keyword, 0, compressed or not, method 0, language, 0, translated keyword, 0, text
        keyword, _, rest = data.partition(b"\0")
        language, _, more = rest[2:].partition(b"\0")
        translated, _, body = more.partition(b"\0")
        text = _inflated(body, left) if rest[:1] == b"\1" else body
        head = b"\0".join((keyword, b"\0\0" + language, translated, b""))
        data = b"" if text is None else head + text
    if not data:
        return None
    return _HEAD.pack(len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))


def _inflated(data: bytes, most: int) -> bytes | None:
    """Decompressed, unless that is damaged or comes to more than `most` bytes."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, most + 1)
    except zlib.error:
        return None
    return text if len(text) <= most else None


class _Joined(io.RawIOBase):
    """Parts of a file, and chunks that were made anew, as one file."""

    def __init__(self, file: BinaryIO, parts: list[_Part]) -> None:
        self._file, self._parts = file, parts
        self._starts = [0]
        for part in parts:
            length = len(part) if isinstance(part, bytes) else part[1] - part[0]
            self._starts.append(self._starts[-1] + length)
        self._at = 0
        self._part = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place in the joined file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, base + offset)
        self._part = 0
        return self._at

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """Fill a buffer from the part that is next; 0 at the end."""
        while self._part < len(self._parts) and self._starts[self._part + 1] <= self._at:
            self._part += 1
        if self._part == len(self._parts):
            return 0
        part, offset = self._parts[self._part], self._at - self._starts[self._part]
        wanted = min(len(buffer), self._starts[self._part + 1] - self._at)
        if isinstance(part, bytes):
            data = part[offset : offset + wanted]
        else:
            self._file.seek(part[0] + offset)
            data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
