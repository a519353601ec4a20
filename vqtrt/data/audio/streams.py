"""Where the streams of an audio file begin and end: there may be several, and junk around them.

libsndfile reads the first stream of a file, and without a word leaves out what `cat` or a recorder
has put behind it; after some headers it takes all that follows for samples. Here sizes and
signatures say where each stream lies. Nothing is decoded.
"""

from collections.abc import Callable
from typing import NamedTuple

from vqtrt.data.audio.file_bytes import MOST_STREAMS, DamagedError, FileBytes, after_id3, after_tags
from vqtrt.data.audio.mp3 import is_mp3, mp3_streams

_OPEN = 0x7FFF0000
"""Bytes from which on a size is what programs write that do not know it yet."""
_FIELDS = 1 << 16
_CHUNKS = 100_000
"""Chunks that are walked; more are not looked at."""
_STREAM_INFO = (b"\0\0\0\x22", b"\x80\0\0\x22")
_FIRST_PAGE = (2, 6)
"""Flags of a stream's first page, which may also be its last."""
_LAST_PAGE = 4
"""The flag of a stream's last page."""


class Stream(NamedTuple):
    """Bytes of a file that are a file of their own."""

    start: int
    end: int
    prefix: bytes = b""
    """What has to come before them."""


class _Extent(NamedTuple):
    """How far a stream goes."""

    end: int | None
    """None where only the file's end tells."""
    following: int | None = None
    """Where the next one was found, if it was."""
    exact: bool = False
    """Whether a decoder would take what follows for samples."""


def find_streams(data: FileBytes) -> list[Stream]:
    """All streams of a file in order, at least one: the whole of a file that is not known.

    Raises `DamagedError` if a header says that there is more (SPHERE, Ogg, MP3 with a Xing
    header), or for too many streams.
    """
    streams: list[Stream] = []
    start: int | None = 0
    while start is not None:
        body = after_id3(data, start)
        if kind := data.kind(body):
            extent = _EXTENTS[kind](data, body)
            found = [Stream(body, 0)]
        elif is_mp3(data, body):
            ranges, end = mp3_streams(data, start)
            found, extent = [Stream(*each) for each in ranges], _Extent(end)
        else:
            break
        following = _following(data, extent)
        if following is not None and following <= body:  # a size that wraps round
            following = None
        if found:
            end = data.size if following is None else following
            if extent.end is not None and (extent.exact or (kind and following is not None)):
                end = min(end, max(extent.end, body))
            found[-1] = found[-1]._replace(end=end)
        streams += found
        if len(streams) > MOST_STREAMS:
            raise DamagedError(f"it holds more than {MOST_STREAMS:,} recordings, one after another")
        start = following
    return streams or [Stream(0, data.size)]


def _following(data: FileBytes, extent: _Extent) -> int | None:
    """Where another stream begins behind one, if there is one."""
    if extent.end is not None and extent.end < data.size:
        position = after_tags(data, extent.end)
        body = after_id3(data, position)
        if data.kind(body) or is_mp3(data, body):
            return position
    return extent.following


def _riff(data: FileBytes, start: int) -> _Extent:
    order = "big" if data.at(start, 4) == b"RIFX" else "little"
    size = int.from_bytes(data.at(start + 4, 4), order)  # type: ignore[arg-type]
    return _Extent(start + 8 + size + size % 2 if 0 < size < _OPEN else None)


def _rf64(data: FileBytes, start: int) -> _Extent:
    if data.at(start + 12, 4) != b"ds64":
        return _Extent(None)
    return _Extent(start + 8 + data.little(start + 20, 8))


def _aiff(data: FileBytes, start: int) -> _Extent:
    size = data.word(start + 4)
    return _Extent(start + 8 + size + size % 2 if 0 < size < _OPEN else None)


def _svx(data: FileBytes, start: int) -> _Extent:
    return _aiff(data, start)._replace(exact=True)


def _w64(data: FileBytes, start: int) -> _Extent:
    return _Extent(start + -(-data.little(start + 16, 8) // 8) * 8, exact=True)


def _au(data: FileBytes, start: int) -> _Extent:
    big = data.at(start, 1) == b"."
    header, size = (
        data.word(start + place) if big else data.little(start + place, 4) for place in (4, 8)
    )
    return _Extent(start + header + size if size < _OPEN else None)


def _caf(data: FileBytes, start: int) -> _Extent:
    """Chunks, one after the other, up to what is none."""
    position = start + 8
    for _ in range(_CHUNKS):
        if position >= data.size or data.kind(position):
            break
        head = data.at(position, 12)
        size = int.from_bytes(head[4:], "big", signed=True)
        if not 0 <= size <= data.size - position - 12 or not head[:4].isascii():
            break
        if not head[:4].isalnum():
            break
        position += 12 + size
    return _Extent(position)


def _voc(data: FileBytes, start: int) -> _Extent:
    """Blocks, one after the other, up to the terminator; sizes have 24 bits, and may overflow."""
    position = start + data.little(start + 20, 2)
    for _ in range(_CHUNKS):
        if position >= data.size or data.at(position, 1) == b"\0":
            break
        position += 4 + data.little(position + 1, 3)
    end = position + 1
    tagged = data.size < 1 << 24 and end < data.size <= after_tags(data, end)
    return _Extent(end, exact=tagged)


def _nist(data: FileBytes, start: int) -> _Extent:
    """SPHERE: fields as text. Only here does libsndfile not say what they claim."""
    head = data.at(start, _FIELDS)
    lines = head.split(b"\n")
    fields = {}
    for line in lines[2:]:
        if line.startswith(b"end_head"):
            break
        words = line.split()
        if len(words) > 2:
            fields[words[0]] = words[2]
    sizes = [fields.get(name, b"") for name in (b"sample_count", b"sample_n_bytes")]
    sizes += [fields.get(b"channel_count", b"1"), lines[1].strip() if len(lines) > 1 else b""]
    packed = b"," in fields.get(b"sample_coding", b"")  # such as pcm,embedded-shorten-v2.00
    if packed or not all(size.isdigit() and len(size) < 16 for size in sizes):
        return _Extent(None)
    count, width, channels, header = map(int, sizes)
    end = start + header + count * width * channels
    if end > data.size:
        there = max(0, data.size - start - header) // max(1, width * channels)
        raise DamagedError(f"it is cut off: {there} of {count} samples are there")
    return _Extent(end, exact=True)


def _flac(data: FileBytes, start: int) -> _Extent:
    """Nothing tells how many bytes a FLAC has; the next one can be searched for."""
    found = data.find(b"fLaC", start + 4)
    # The first block says how long it is: random bytes do not look like this.
    position = next((at for at in found if data.at(at + 4, 4) in _STREAM_INFO), None)
    if position is None:
        return _Extent(None)
    # A tag ahead of it belongs to it.
    tag = data.find_last(b"ID3", start, position)
    return _Extent(None, tag if tag >= 0 and after_id3(data, tag) == position else position)


def _ogg(data: FileBytes, start: int) -> _Extent:
    """A chain's link begins with first pages of its streams, beside each other (RFC 3533)."""
    ahead, following = _page_end(data, start), None
    for position in data.find(b"OggS\0", start + 1):
        if data.little(position + 5, 1) not in _FIRST_PAGE:
            continue
        if position != ahead:
            following = position
            break
        ahead = _page_end(data, position)
    limit = data.size if following is None else following
    last = data.find_last(b"OggS\0", start, limit)
    if last < 0:
        return _Extent(None, following)
    end = _page_end(data, last)
    if following is None and (end > data.size or not data.little(last + 5, 1) & _LAST_PAGE):
        raise DamagedError("it is cut off, or was never finished: its last page is not there")
    return _Extent(end, following)


def _page_end(data: FileBytes, position: int) -> int:
    head = data.at(position, 27)
    segments = head[26] if len(head) == 27 else 0
    return position + 27 + segments + sum(data.at(position + 27, segments))


_EXTENTS: dict[str, Callable[[FileBytes, int], _Extent]] = {
    "RIFF": _riff,
    "RF64": _rf64,
    "AIFF": _aiff,
    "SVX": _svx,
    "W64": _w64,
    "AU": _au,
    "CAF": _caf,
    "VOC": _voc,
    "NIST": _nist,
    "FLAC": _flac,
    "OGG": _ogg,
}
