"""The frames of MP3 data, walked without decoding: where streams that were joined begin and end.

Notable:
- A decoder believes the frame count of the first Xing, Info or VBRI header, and stops there without
  a word; without a header it guesses one from the first frame's bit rate. So a stream gets a header
  whose count is right, in place of its own; of one bit rate alone it needs none.
- A header in the middle, an ID3v2 tag or other data that a decoder does not skip begin a stream.
"""

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from vqtrt.data.audio.file_bytes import MOST_STREAMS, DamagedError, FileBytes, after_id3, after_tags

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Hz by the version's bits (MPEG 1, 2, 2.5) and the rate's."""
_KBITS = {
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Thousands of bits per second by (MPEG 1, the layer's bits: 3 is layer I), from index 1."""
_SAME = 0xFFFE0C00
"""Bits of a header that all frames of a stream share: sync, version, layer, rate."""
_SURE = 3
"""Frames in a row that random data do not have."""
_SKIPPED = 1000
"""Bytes of junk that a decoder skips by itself."""
_SEARCHED = 1 << 20
_BLOCK = 1 << 16
_TAGS = (b"Xing", b"Info", b"VBRI")
_REACH = 64
"""Bytes from a frame's beginning within which such a header begins."""
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]")
_ROUNDED = 1
"""Frames that a header may count too much: some also count the header's own frame."""
_WIDE = 0x9000
"""Bits of a header for a bit rate whose frames have room for a count."""


@dataclass
class _Walk:
    """A stream, as far as it has been walked."""

    start: int
    """The first frame's place."""
    end: int
    word: int
    """The first frame's header."""
    frames: int = 0
    header: bytes = b""
    """The frame with a Xing, Info or VBRI header, if it has one."""
    count: int = 0
    """Where the number of frames is in it; 0 for nowhere."""
    changes: int = 0
    """Bits of frames' headers that differ from the first's."""

    @property
    def claimed(self) -> int | None:
        """Frames, by that header."""
        count = self.header[self.count : self.count + 4]
        return int.from_bytes(count, "big") if self.count and len(count) == 4 else None

    def stream(self) -> tuple[int, int, bytes]:
        """Start and end, and what has to come before them, if a decoder would not count right."""
        if self.claimed == self.frames:
            return self.start - len(self.header), self.end, b""
        return self.start, self.end, self._prefix()

    def _prefix(self) -> bytes:
        count = struct.pack(">I", self.frames)
        if self.count:
            return self.header[: self.count] + count + self.header[self.count + 4 :]
        if not self.changes & 0xF000 or self.word >> 17 & 3 != 1:  # the bit rate; layer III
            return self.header
        # Without a checksum.
        word = (self.word | 1 << 16) & ~0xF000 | _WIDE
        text = word.to_bytes(4, "big") + bytes(_side(word)) + b"Xing\0\0\0\1" + count
        return text.ljust(_length(word >> 9), b"\0")


def is_mp3(data: FileBytes, position: int) -> bool:
    """Whether frames of MPEG audio, of any layer, begin here: some in a row, or one at the end."""
    first, count = data.word(position), 0
    while count < _SURE:
        word = data.word(position)
        length = _length(word >> 9)
        if not length or word & _SAME != first & _SAME:
            return False
        position += length
        count += 1
        if position == data.size:
            return True
    return True


def mp3_streams(data: FileBytes, start: int) -> tuple[list[tuple[int, int, bytes]], int]:
    """Streams from `start` on, where an ID3v2 tag or a frame is; and where they end.

    Each is the start and end of its frames, and the bytes that have to come before them. Raises
    `DamagedError` if a header counts more frames than there are.
    """
    walks = list(itertools.islice(_walks(data, start), MOST_STREAMS + 1))
    streams = []
    left = sum(walk.frames for walk in walks)
    for walk in walks:
        # A first header may count the frames of all that were joined behind it.
        if walk.claimed is not None and walk.claimed > left + _ROUNDED:
            raise DamagedError(f"it is cut off: {left} of {walk.claimed} frames are there")
        left -= walk.frames
        if walk.frames:
            streams.append(walk.stream())
    if streams and not streams[0][2] and walks[0].claimed == walks[0].frames:
        # With its tags: a whole file stays one, and is not guessed from its size.
        streams[0] = (start, *streams[0][1:])
    return streams, walks[-1].end


def _walks(data: FileBytes, start: int) -> Iterator[_Walk]:
    position = after_id3(data, start)
    walk = _Walk(position, position, data.word(position))
    while True:
        frames, position, changes = _plain(data, position, walk.word)
        if frames:
            walk.frames += frames
            walk.end = position
            walk.changes |= changes
        word = data.word(position)
        length = _length(word >> 9)
        if not length or word & _SAME != walk.word & _SAME:
            found = _resync(data, position)
            if found is None:
                break
            begins, position = found
            word = data.word(position)
            other = word & _SAME != walk.word & _SAME
            if begins != position or begins - walk.end > _SKIPPED or other:
                yield walk
                walk = _Walk(position, position, word)
            continue
        header = data.at(position, length)
        count = _count(header, word)
        if count is not None:
            if walk.frames or walk.header:
                yield walk
            walk = _Walk(position + length, position, word, 0, header, count)
        elif position + length <= data.size:
            walk.frames += 1
            walk.changes |= word ^ walk.word
        position += length
        walk.end = min(position, data.size)
        if position >= data.size:
            break
    yield walk


def _plain(data: FileBytes, position: int, first: int) -> tuple[int, int, int]:
    """Frames like the first that follow one another, without a header among them.

    Their number, their end, and the bits of their headers that differ from the first's. Not all of
    them, but most: the loop that takes the time.
    """
    block = data.at(position, _BLOCK)
    tags = [offset for tag in _TAGS if (offset := block.find(tag)) >= 0]
    limit = min([len(block), *tags]) - _REACH
    same, count, offset, changes = first & _SAME, 0, 0, 0
    while offset < limit:
        word = int.from_bytes(block[offset : offset + 4], "big")
        length = _length(word >> 9)
        if not length or word & _SAME != same or offset + length > len(block):
            break
        offset += length
        count += 1
        changes |= word ^ first
    return count, position + offset, changes


def _resync(data: FileBytes, position: int) -> tuple[int, int] | None:
    """Where the next stream and its first frame begin, after what is no frame; None for nowhere."""
    begins = after_tags(data, position)
    frame = after_id3(data, begins)
    if is_mp3(data, frame):
        return begins, frame
    if data.kind(frame):
        return None  # another format, which the caller finds
    for sync in _SYNC.finditer(data.at(begins, _SEARCHED)):
        if is_mp3(data, begins + sync.start()):
            return begins + sync.start(), begins + sync.start()
    return None


@lru_cache(maxsize=4096)
def _length(head: int) -> int:
    """Bytes of a frame by its header's upper 23 bits; 0 for what is none, or of free format."""
    version, layer = head >> 10 & 3, head >> 8 & 3
    bitrate, rate, padding = head >> 3 & 15, head >> 1 & 3, head & 1
    if head >> 12 != 0x7FF or version == 1 or not layer or bitrate in (0, 15) or rate == 3:
        return 0
    bits = 1000 * _KBITS[version == 3, layer][bitrate - 1]
    hertz = _RATES[version][rate]
    if layer == 3:
        return (12 * bits // hertz + padding) * 4
    return (72 if layer == 1 and version != 3 else 144) * bits // hertz + padding


def _side(word: int) -> int:
    """Bytes of side information in a frame of layer III."""
    mono = word >> 6 & 3 == 3
    return (17 if mono else 32) if word >> 19 & 3 == 3 else (9 if mono else 17)


def _count(frame: bytes, word: int) -> int | None:
    """Where in a frame a Xing, Info or VBRI header counts frames: 0 if nowhere, None for none."""
    if word >> 17 & 3 != 1:
        return None
    place = 4 + _side(word)
    if frame[place : place + 4] in (b"Xing", b"Info"):
        counts = int.from_bytes(frame[place + 4 : place + 8], "big") & 1
        return place + 8 if counts else 0
    return 36 + 14 if frame[36:40] == b"VBRI" else None
