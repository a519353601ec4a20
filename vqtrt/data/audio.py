"""Recordings as float32 mono at a model's rate, block by block: any length in flat memory.

Notable:
- The whole of a file is its blocks put together, so both give the same samples bit for bit.
- Nothing is allocated by what a header claims.
- A file is what its content says, whatever its name ends with.
"""

import errno
import math
import os
import re
import wave
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from vqtrt.data.decode import shown
from vqtrt.errors import AudioError, VqtrtError, unwritable

Audio = NDArray[np.float32]
"""Mono samples (T,), float32 in [-1, 1] or a little beyond."""

_BLOCK_FRAMES = 1 << 16
_MAX_CHANNELS = 64
_RATES = (100, 1_000_000)
_LOUDEST = 100.0
"""40 dB above full scale: beyond it numbers are no samples, or not scaled to [-1, 1]."""
_QUIET = 1e-5
"""RMS below which a recording is not brought to a level: it would be its noise."""
_DENSEST = 1 << 13
"""Samples a byte that no format reaches: silence in FLAC has 65,535 in 14 bytes or more."""
_UNKNOWN = (1 << 63) - 1
"""Frames that libsndfile gives for a FLAC whose header leaves its length open."""
_WHOLE = 1 << 30
"""Samples that are read at once, 4 GiB."""
_WAV_SAMPLES = ((1 << 32) - 64) // 2
"""Of 16 bit: sizes are written in 32 bits, with the header's."""
_COUNTED = ("WAV", "FLAC", "AIFF", "W64", "RF64", "WAVEX")
"""Formats whose headers say how many samples there are; of others it is an estimate."""

# In libsndfile's log, of a WAV, AIFF, W64 or RF64 that is shorter than its header says.
_SHORTER = re.compile(r"^ *(?:data|SSND|riff|Riff size) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED = 0x7FFF0000
"""Bytes from which on a size is the one that programs write who do not know it yet."""


class AudioPreprocessing(BaseModel):
    """Part of a model: recorded in its config and its bundle, so encode repeats what train did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_rate: int = Field(16000, ge=1000, le=192000)
    """Samples a second that recordings are brought to."""
    level_db: float | None = Field(None, ge=-80, le=0)
    """Level that each recording is brought to, RMS in dB of full scale; None leaves it alone."""


def read_blocks(path: Path, preprocessing: AudioPreprocessing) -> Iterator[Audio]:
    """The samples of a recording in blocks (n,) of some seconds: mixed to mono, resampled.

    WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF and whatever else libsndfile reads, of up to 64
    channels. Raises `AudioError` for what is missing, is no audio, is damaged or cut off, is empty,
    or holds samples that are not finite; `ModuleNotFoundError` without the extra `speech`.
    """
    gain = 1.0
    if preprocessing.level_db is not None:
        gain = _gain(path, preprocessing.level_db)
    for block in _resampled(path, preprocessing.sample_rate):
        yield block if gain == 1.0 else block * np.float32(gain)


def read_audio(path: Path, preprocessing: AudioPreprocessing) -> Audio:
    """The whole of a recording (T,); what `read_blocks` gives, put together, and as it raises.

    Also raises `AudioError` for one of more than 2^30 samples (18 hours at 16 kHz).
    """
    blocks, count = [], 0
    for block in read_blocks(path, preprocessing):
        blocks.append(block)
        count += len(block)
        if count > _WHOLE:
            hours = _WHOLE / 3600 / preprocessing.sample_rate
            raise AudioError(f"{shown(path)}: is longer than {hours:.0f} hours; split it")
    return np.concatenate(blocks)


def audio_length(path: Path, preprocessing: AudioPreprocessing) -> int:
    """Samples that a recording comes to, by its header: resampling may give one more or less.

    Where the header leaves it open, the file is read. Raises as `read_blocks`.
    """
    with _open(path) as file:
        frames, rate = int(file.frames), int(file.samplerate)
    if frames == _UNKNOWN:
        return sum(map(len, _resampled(path, preprocessing.sample_rate)))
    return max(1, round(frames * preprocessing.sample_rate / rate))


def bad_sample(audio: NDArray[np.floating[Any]]) -> int | None:
    """Where the first sample of (T,) is that is not finite, or far beyond [-1, 1]; None if none is.

    The bound, 100, is 40 dB above full scale: 16-bit numbers that were not scaled are beyond it.
    """
    loud = np.abs(audio)
    if loud.max(initial=0) <= _LOUDEST:  # not so with NaN
        return None
    return int(np.argmin(loud <= _LOUDEST))


def write_wav(path: Path, audio: Audio, sample_rate: int) -> None:
    """Write samples (T,) as 16-bit PCM, clipped to [-1, 1]; the file appears when it is whole.

    Folders on the way are made. Raises `VqtrtError` where it cannot be written, or as
    `write_blocks`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write_blocks(temporary, [audio], None, sample_rate)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # such as the one that has just been raised
            temporary.unlink(missing_ok=True)


def write_blocks(path: Path, blocks: Iterable[Audio], samples: int | None, rate: int) -> None:
    """Write the first `samples` of some blocks (n,), or all, as a wav of `rate` Hz.

    As `write_wav`, but it grows in its place, and stays there where it fails: for a file that is
    put in place afterwards. Raises `VqtrtError` for samples that are not numbers and for more than
    a wav holds, `OSError` where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, wave.open(raw, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        for block in blocks:
            part = block if samples is None else block[: samples - file.tell()]
            if np.isnan(part).any():
                raise VqtrtError(
                    "the audio holds samples that are not numbers, and is not written; the model "
                    "that made it is damaged, or its training went astray"
                )
            if file.tell() + len(part) > _WAV_SAMPLES:
                raise VqtrtError(
                    f"the audio has more than the {_WAV_SAMPLES:,} samples that a wav holds; "
                    "make it in parts"
                )
            file.writeframesraw(np.rint(np.clip(part, -1, 1) * 32767).astype(np.int16).tobytes())


def _resampled(path: Path, rate: int) -> Iterator[Audio]:
    """Mono blocks at `rate`; none of them is empty, and there is at least one."""
    import soxr

    stream: Any = None
    given = False
    with _open(path) as file:
        if file.samplerate != rate:
            stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
        # Up to a few times as many come out as go in, whatever the rates.
        frames = max(1, min(_BLOCK_FRAMES, 4 * _BLOCK_FRAMES * file.samplerate // rate))
        for block, last in _mono(path, file, frames):
            made = block if stream is None else stream.resample_chunk(block, last=last)
            if len(made):
                given = True
                yield made
    if not given:
        raise AudioError(f"{shown(path)}: is too short to be brought to {rate} Hz; remove it")


def _mono(path: Path, file: Any, frames: int = _BLOCK_FRAMES) -> Iterator[tuple[Audio, bool]]:
    """Blocks of up to `frames` of a file, checked, and whether each is the last."""
    import soundfile

    done, ahead = 0, None
    while True:
        try:
            block = file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _damaged(path, str(error)) from None
        if not len(block):
            break
        mono = block[:, 0] if block.shape[1] == 1 else _mixed(block)
        if (at := bad_sample(mono)) is not None:
            raise AudioError(
                f"{shown(path)}: sample {done + at} is {mono[at]:g}; samples are finite and within "
                "[-1, 1], so mend or remove the file"
            )
        done += len(block)
        if ahead is not None:
            yield ahead, False
        ahead = np.ascontiguousarray(mono)
    if ahead is None:
        raise AudioError(f"{shown(path)}: holds no samples; remove it")
    if file.format in _COUNTED and done < file.frames < _UNKNOWN:
        raise _damaged(path, f"it ends after {done} of {file.frames} samples")
    yield ahead, True


def _mixed(block: NDArray[np.float32]) -> Audio:
    """The mean of the channels (n, c)."""
    # Infinite channels give NaN, of which the caller makes an error.
    with np.errstate(invalid="ignore", over="ignore"):
        mixed: Audio = block.mean(1, dtype=np.float32)
    return mixed


def _open(path: Path) -> Any:
    """A file of soundfile's, whose claims are within bounds."""
    import soundfile

    try:
        if not path.is_file():
            # A pipe would be waited for.
            raise AudioError(f"{shown(path)}: no such file; check the path")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            # Not the recording's fault: passing over it would pass over all that follow.
            raise VqtrtError(f"{shown(path)}: too many open files; raise `ulimit -n`") from error
        raise AudioError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    if not size:
        raise AudioError(f"{shown(path)}: is empty; remove it")
    try:
        opened = soundfile.SoundFile(os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: .raw, which has no header
        raise _unknown(path, error) from None
    try:
        _check_claims(path, opened, size)
    except AudioError:
        opened.close()
        raise
    # soundfile would seek to where it is after each block, which is slow, cuts an MP3 off at its
    # estimated length, and fails for a FLAC of open length.
    opened.seekable = lambda: False
    return opened


def _check_claims(path: Path, file: Any, size: int) -> None:
    if file.channels > _MAX_CHANNELS or not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise AudioError(
            f"{shown(path)}: claims {file.channels} channels at {file.samplerate} Hz; up to "
            f"{_MAX_CHANNELS} channels and {_RATES[0]} to {_RATES[1]} Hz are read"
        )
    if size * _DENSEST < file.frames < _UNKNOWN:
        raise _damaged(path, f"it claims {file.frames} samples in {size} bytes")
    if found := _SHORTER.search(file.extra_info):
        claimed, there = map(int, found.groups())
        if there < claimed < _STREAMED:
            raise _damaged(path, f"it is cut off: {there} of {claimed} bytes are there")


def _unknown(path: Path, error: Exception) -> AudioError:
    """Why a file cannot be opened."""
    import soundfile

    suffix = path.suffix.lower()
    if suffix == ".mp3" and "MP3" not in soundfile.available_formats():
        needed = "1.1"
    elif suffix == ".opus" and "OPUS" not in soundfile.available_subtypes("OGG"):
        needed = "1.0.29"
    else:
        # libsndfile names the path as bytes; its reason comes after the last colon.
        return _damaged(path, str(error).rpartition(": ")[2])
    return AudioError(
        f"{shown(path)}: libsndfile {soundfile.__libsndfile_version__} reads no {suffix[1:]}, "
        f'{needed} and later do: pip install --upgrade "vqtrt[speech]", or convert to flac'
    )


def _damaged(path: Path, reason: str) -> AudioError:
    text = " ".join(reason.split()).rstrip(".")
    return AudioError(
        f"{shown(path)}: is no audio that can be read, or is damaged ({text}); replace or remove it"
    )


def _gain(path: Path, level_db: float) -> float:
    """What brings a recording's RMS to a level; a pass over the file."""
    squares, count = 0.0, 0
    with _open(path) as file:
        for block, _ in _mono(path, file):
            squares += float(np.square(block, dtype=np.float64).sum())
            count += len(block)
    rms = math.sqrt(squares / count)
    return 1.0 if rms < _QUIET else float(10 ** (level_db / 20)) / rms
