"""Recordings as float32 mono at a model's rate, block by block: any length in flat memory.

Notable: the whole of a file is its blocks put together, so both give the same samples bit for bit;
and nothing is allocated by what a header claims.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from vqtrt.errors import AudioError, unwritable

Audio = NDArray[np.float32]
"""Mono samples (T,), float32 in [−1, 1] or a little beyond."""

_BLOCK_FRAMES = 1 << 16
_MAX_CHANNELS = 64
_RATES = (100, 1_000_000)
_QUIET = 1e-5
"""RMS below which a recording is not brought to a level: it would be its noise."""
_COUNTED = ("WAV", "FLAC", "AIFF", "W64", "RF64", "WAVEX")
"""Formats whose headers say how many samples there are; of others it is an estimate."""


class AudioPreprocessing(BaseModel):
    """Part of a model: recorded in its config and its bundle, so encode repeats what train did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_rate: int = Field(16000, ge=1000, le=192000)
    """Samples a second that recordings are brought to."""
    level_db: float | None = Field(None, ge=-80, le=0)
    """Level that each recording is brought to, RMS in dB of full scale; None leaves it alone."""


def read_blocks(path: Path, preprocessing: AudioPreprocessing) -> Iterator[Audio]:
    """The samples of a recording in blocks (n,) of some seconds: mixed to mono, resampled.

    Raises `AudioError` for what is no audio, is damaged or cut off, is empty, or holds NaN.
    """
    gain = 1.0
    if preprocessing.level_db is not None:
        gain = _gain(path, preprocessing.level_db)
    for block in _resampled(path, preprocessing.sample_rate):
        yield block if gain == 1.0 else block * np.float32(gain)


def read_audio(path: Path, preprocessing: AudioPreprocessing) -> Audio:
    """The whole of a recording (T,); what `read_blocks` gives, put together."""
    return np.concatenate(list(read_blocks(path, preprocessing)))


def audio_length(path: Path, preprocessing: AudioPreprocessing) -> int:
    """Samples that a recording comes to, by its header: resampling may give one more or less."""
    with _open(path) as file:
        return max(1, round(file.frames * preprocessing.sample_rate / file.samplerate))


def write_wav(path: Path, audio: Audio, sample_rate: int) -> None:
    """Write samples (T,) as 16-bit PCM, clipped to [−1, 1]; the file appears when it is whole."""
    import soundfile

    temporary = path.with_name(f".{path.name}.partial")
    levels = np.rint(np.clip(audio, -1, 1) * 32767).astype(np.int16)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(os.fsencode(temporary), levels, sample_rate, "PCM_16", format="WAV")
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    except soundfile.LibsndfileError as error:
        raise unwritable(path, OSError(str(error))) from error
    finally:
        temporary.unlink(missing_ok=True)


def _resampled(path: Path, rate: int) -> Iterator[Audio]:
    """Mono blocks at `rate`; none of them is empty, and there is at least one."""
    import soxr

    stream: Any = None
    given = False
    with _open(path) as file:
        if file.samplerate != rate:
            stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
        for block, last in _mono(path, file):
            made = block if stream is None else stream.resample_chunk(block, last=last)
            if len(made):
                given = True
                yield made
    if not given:
        raise AudioError(f"{path}: is too short to be brought to {rate} Hz; remove it")


def _mono(path: Path, file: Any) -> Iterator[tuple[Audio, bool]]:
    """Blocks of a file, checked, and whether each is the last."""
    import soundfile

    done, ahead = 0, None
    while True:
        try:
            block = file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _damaged(path, str(error)) from None
        if not len(block):
            break
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(1, dtype=np.float32)
        if not np.isfinite(mono).all():
            at = done + int(np.argmin(np.isfinite(mono)))
            raise AudioError(f"{path}: sample {at} is not a number; mend or remove the file")
        done += len(block)
        if ahead is not None:
            yield ahead, False
        ahead = np.ascontiguousarray(mono)
    if ahead is None:
        raise AudioError(f"{path}: holds no samples; remove it")
    if file.format in _COUNTED and done < file.frames:
        raise _damaged(path, f"ends after {done} of {file.frames} samples")
    yield ahead, True


def _open(path: Path) -> Any:
    """A file of soundfile's, whose claims are within bounds."""
    import soundfile

    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise AudioError(f"{path}: is empty; remove it")
    try:
        opened = soundfile.SoundFile(os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError) as error:
        # libsndfile names the path in bytes; its reason comes after the last colon.
        raise _damaged(path, str(error).rpartition(": ")[2]) from None
    if opened.channels > _MAX_CHANNELS or not _RATES[0] <= opened.samplerate <= _RATES[1]:
        with opened:
            raise AudioError(
                f"{path}: claims {opened.channels} channels at {opened.samplerate} Hz; up to "
                f"{_MAX_CHANNELS} channels and {_RATES[1]} Hz are read"
            )
    return opened


def _damaged(path: Path, reason: str) -> AudioError:
    text = " ".join(reason.split()).rstrip(".")
    return AudioError(f"{path}: is no audio that can be read, or is damaged ({text})")


def _gain(path: Path, level_db: float) -> float:
    """What brings a recording's RMS to a level; a pass over the file."""
    squares, count = 0.0, 0
    with _open(path) as file:
        for block, _ in _mono(path, file):
            squares += float(np.square(block, dtype=np.float64).sum())
            count += len(block)
    rms = math.sqrt(squares / count)
    return 1.0 if rms < _QUIET else float(10 ** (level_db / 20)) / rms
