"""An audio file that is open: its streams, one after the other, whose claims are within bounds.

Notable:
- A file is what its content says, whatever its name ends with: libsndfile is not given the name, by
  which it would take junk called .au for samples.
- A file may hold several streams (`streams.py`): each is opened as a file of its own.
- What a header says of the length is compared with what is there; libsndfile only logs it.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vqtrt.data.audio.file_bytes import DamagedError, FileBytes
from vqtrt.data.audio.streams import Stream, find_streams
from vqtrt.data.source import Stored
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.system.files import open_file
from vqtrt.system.names import printable

UNKNOWN = (1 << 63) - 1
"""Frames that libsndfile gives for a FLAC whose header leaves its length open."""
_MAX_CHANNELS = 64
_RATES = (100, 1_000_000)
_DENSEST = 1 << 13
"""Samples a byte that no format reaches: silence in FLAC has 65,535 in 14 bytes or more."""
ESTIMATED = ("MP3", "OGG")
"""Formats whose number of frames is an estimate; of all others the header tells it, or the size."""

# In libsndfile's log, where a file is shorter than its header says: bytes of WAV, AIFF, W64, RF64,
# AU and SVX, and of WVE.
_SHORTER = re.compile(
    r"^ *(?:data|SSND|riff|Riff size|Data Size|BODY) +: (\d+) \(should be (\d+)\)"
    r"|^Data length (\d+) should be (\d+)",
    re.MULTILINE,
)
_TRUNCATED = re.compile(r"(?:Seems to be a|File seems to be) truncated")
"""Of VOC and MAT4."""
_SEGMENTS = re.compile("Seems to be a multi-segment file")
_FRAMES = {
    "AVR": re.compile(r"^ *Frames +: (\d+)", re.MULTILINE),
    "MPC2K": re.compile(r"^ *Frames +: (\d+)", re.MULTILINE),
    "MAT5": re.compile(r"Rows : \d+ +Cols : (\d+)"),
}
"""What headers tell of frames, where libsndfile goes by the file's size and nothing else."""
_BLOCKS = re.compile(r"^Frames +: (\d+)", re.MULTILINE)
"""Of SDS the other way round: frames that are there, while libsndfile goes by the header."""
_STREAMED = 0x7FFF0000
"""Bytes from which on a size is the one that programs write who do not know it yet."""


class Recording:
    """An audio file to read from, as a context.

    Raises `AudioError` when made for what is missing, no regular file, no audio, cut off, or claims
    more than there can be; `VqtrtError` if too many files are open; `ModuleNotFoundError`
    without the extra `speech`.
    """

    def __init__(self, path: Path | Stored) -> None:
        self.path = path
        self._file = _opened(path)
        self._descriptor = self._file.fileno()
        try:
            self._size = os.fstat(self._descriptor).st_size
            if not self._size:
                raise AudioError(f"{printable(path)}: is empty; remove it")
            try:
                self._streams = find_streams(FileBytes(self._descriptor, self._size))
            except DamagedError as error:
                raise damaged(path, str(error)) from None
            self._first = self._open(self._streams[0])
        except BaseException:
            self.close()
            raise
        self.sample_rate = int(self._first.samplerate)

    def frames(self) -> int:
        """Frames by the headers of all streams; `UNKNOWN` where one leaves it open."""
        counts = [int(self._first.frames)]
        for stream in self._streams[1:]:
            with self._open(stream) as opened:
                counts.append(int(opened.frames))
        return UNKNOWN if UNKNOWN in counts else sum(counts)

    def streams(self) -> Iterator[Any]:
        """Each stream as a file of soundfile's, open until the next is asked for.

        Raises `AudioError` for one that is damaged, or has another rate than the first.
        """
        yield self._first
        for stream in self._streams[1:]:
            with self._open(stream) as opened:
                if opened.samplerate != self.sample_rate:
                    raise AudioError(
                        f"{printable(self.path)}: holds {len(self._streams)} recordings, one after "
                        f"another, of {self.sample_rate} and {opened.samplerate} Hz; split it, or "
                        f"bring it to one rate: {_ffmpeg(self.path)}"
                    )
                yield opened

    def _open(self, stream: Stream) -> Any:
        import soundfile

        try:
            if stream == (0, self._size, b""):
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                opened = soundfile.SoundFile(self._descriptor, closefd=False)
            else:
                opened = soundfile.SoundFile(_Window(self._descriptor, stream))
        except soundfile.LibsndfileError as error:
            raise _unknown(self.path, error) from None
        try:
            _check_claims(self.path, opened, stream.end - stream.start)
        except AudioError:
            opened.close()
            raise
        # soundfile would seek to where it is after each block, which is slow, cuts an MP3 off at
        # its estimated length, and fails for a FLAC of open length.
        opened.seekable = lambda: False
        return opened

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_first"):
            self._first.close()
        self._file.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Window:
    """A part of a file as a file of its own, for soundfile."""

    def __init__(self, descriptor: int, stream: Stream) -> None:
        self._descriptor, self._stream = descriptor, stream
        self._position = 0

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as there is something."""
        start, end, prefix = self._stream
        data, wanted = prefix[self._position : self._position + len(buffer)], len(buffer)
        first = start + self._position + len(data) - len(prefix)
        if wanted > len(data):
            count = max(0, min(wanted - len(data), end - first))
            data += os.pread(self._descriptor, count, first)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def read(self, count: int) -> bytes:
        """Up to `count` bytes."""
        buffer = bytearray(count)
        return bytes(buffer[: self.readinto(buffer)])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        start, end, prefix = self._stream
        size = end - start + len(prefix)
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position


def _opened(path: Path | Stored) -> BinaryIO:
    try:
        if not isinstance(path, Path):
            # libsndfile takes a file from its beginning to its end, so a member becomes one.
            data = path.read()
            copy = os.fdopen(os.memfd_create("vqtrt", os.MFD_CLOEXEC), "w+b")
            copy.write(data)
            copy.seek(0)
            return copy
        return open_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"{printable(path)}: no such file; check the path") from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            # Not the recording's fault: passing over it would pass over all that follow.
            raise VqtrtError(
                f"{printable(path)}: too many open files; raise `ulimit -n`"
            ) from error
        raise AudioError(f"{printable(path)}: cannot be read ({error.strerror})") from error


def _check_claims(path: Path | Stored, file: Any, size: int) -> None:
    if file.channels > _MAX_CHANNELS or not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise AudioError(
            f"{printable(path)}: claims {file.channels} channels at {file.samplerate} Hz; up to "
            f"{_MAX_CHANNELS} channels and {_RATES[0]} to {_RATES[1]} Hz are read"
        )
    if size * _DENSEST < file.frames < UNKNOWN:
        raise damaged(path, f"it claims {file.frames} samples in {size} bytes")
    log = file.extra_info
    if found := _SHORTER.search(log):
        claimed, there = (int(number) for number in found.groups() if number)
        if there < claimed < _STREAMED:
            raise damaged(path, f"it is cut off: {there} of {claimed} bytes are there")
    if _TRUNCATED.search(log):
        raise damaged(path, "it is cut off")
    if _SEGMENTS.search(log):
        raise damaged(path, "a VOC of several blocks, whose headers would be taken for samples")
    if file.format in _FRAMES and (told := _FRAMES[file.format].findall(log)):
        _check_frames(path, file.frames, int(told[-1]))
        if file.frames > int(told[-1]):
            raise damaged(path, f"it holds more than the {told[-1]} samples that its header says")
    if file.format == "SDS" and (told := _BLOCKS.findall(log)):
        _check_frames(path, int(told[-1]), file.frames)


def _check_frames(path: Path | Stored, there: int, claimed: int) -> None:
    if there < claimed:
        raise damaged(path, f"it is cut off: {there} of {claimed} samples are there")


def _unknown(path: Path | Stored, error: Exception) -> AudioError:
    """Why a file cannot be opened."""
    import soundfile

    suffix = path.suffix.lower()
    if suffix == ".mp3" and "MP3" not in soundfile.available_formats():
        needed = "1.1"
    elif suffix == ".opus" and "OPUS" not in soundfile.available_subtypes("OGG"):
        needed = "1.0.29"
    else:
        # libsndfile names the file; its reason comes after the last colon.
        return damaged(path, str(error).rpartition(": ")[2])
    return AudioError(
        f"{printable(path)}: libsndfile {soundfile.__libsndfile_version__} reads no {suffix[1:]}, "
        f'{needed} and later do: pip install --upgrade "vqtrt[speech]", or convert to flac'
    )


def _ffmpeg(path: Path | Stored) -> str:
    """A command line that brings a file to one that is read."""
    return f"ffmpeg -i {printable(path.name)} {printable(path.stem)}-mended.flac"


def damaged(path: Path | Stored, reason: str) -> AudioError:
    """What to raise for a file that cannot be decoded."""
    text = " ".join(reason.split()).rstrip(".")
    return AudioError(
        f"{printable(path)}: is no audio that can be read, or is damaged ({text}); replace or "
        f"remove it"
    )
