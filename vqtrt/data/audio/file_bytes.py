"""The bytes of an audio file, looked at without decoding: signatures and tags."""

import os
from collections.abc import Iterator

MOST_STREAMS = 10_000
"""In a file."""
_BLOCK = 1 << 18
_TAG = 1 << 20
_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")


class DamagedError(Exception):
    """A file that ends before its header says, or claims too much; the text tells which."""


class FileBytes:
    """A file of `size` bytes, read in blocks by its descriptor; what lies beyond is empty."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._descriptor = descriptor
        self._first, self._block = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """Up to `count` bytes from a position on."""
        offset = position - self._first
        if offset < 0 or offset + count > len(self._block):
            if position >= self.size:
                return b""
            self._block = os.pread(self._descriptor, max(count, _BLOCK), position)
            self._first, offset = position, 0
        return self._block[offset : offset + count]

    def word(self, position: int) -> int:
        """Four bytes, the first of them the highest; 0 beyond the end."""
        data = self.at(position, 4)
        return int.from_bytes(data, "big") if len(data) == 4 else 0

    def little(self, position: int, count: int) -> int:
        """A number of `count` bytes, the first of them the lowest; 0 beyond the end."""
        data = self.at(position, count)
        return int.from_bytes(data, "little") if len(data) == count else 0

    def find(self, wanted: bytes, start: int) -> Iterator[int]:
        """Positions from `start` on where a text is, in order."""
        over = len(wanted) - 1
        while start < self.size:
            block = self.at(start, _BLOCK)
            offset = block.find(wanted)
            while offset >= 0:
                yield start + offset
                offset = block.find(wanted, offset + 1)
            if len(block) <= over:
                return
            start += len(block) - over

    def find_last(self, wanted: bytes, start: int, end: int) -> int:
        """The last position of a text within the last MiB of a range; -1 for none."""
        first = max(start, end - _TAG)
        offset = self.at(first, end - first).rfind(wanted)
        return -1 if offset < 0 else first + offset

    def kind(self, position: int) -> str:
        """The container that begins here, by its signature; empty for none that is known."""
        head = self.at(position, 24)
        if head[8:12] == b"WAVE" and head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
            return "RIFF" if head.startswith(b"RIF") else "RF64"
        if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
            return "AIFF" if head[8:10] == b"AI" else "SVX"
        for signature, name in _SIGNATURES.items():
            if head.startswith(signature):
                return name
        return ""


_SIGNATURES = {
    b"OggS\0": "OGG",
    b"fLaC": "FLAC",
    _W64: "W64",
    b".snd\0": "AU",
    b"dns.": "AU",
    b"caff\0": "CAF",
    b"NIST_1A\n": "NIST",
    b"Creative Voice File\x1a": "VOC",
}


def after_id3(data: FileBytes, position: int) -> int:
    """Where what follows ID3v2 tags begins; `position` where there is none."""
    while (head := data.at(position, 10))[:3] == b"ID3" and len(head) == 10 and max(head[6:]) < 128:
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    return position


def after_tags(data: FileBytes, position: int) -> int:
    """Where what follows padding, ID3v1, APE and Lyrics3 tags begins."""
    while True:
        head = data.at(position, 32)
        if head[:4] == b"TAG+":
            position += 227
        elif head[:3] == b"TAG":
            position += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            # The size counts the items and the footer, which may be all that there is of it.
            header = int.from_bytes(head[20:24], "little") >> 29 & 1
            position += 32 + (int.from_bytes(head[12:16], "little") if header else 0)
        elif head[:11] == b"LYRICSBEGIN":
            text = data.at(position, _TAG)
            ends = [text.find(end) + 9 for end in (b"LYRICS200", b"LYRICSEND") if end in text]
            if not ends:
                return position
            position += min(ends)
        elif head[:1] == b"\0":
            block = data.at(position, _TAG)
            position += len(block) - len(block.lstrip(b"\0"))
        else:
            return position
