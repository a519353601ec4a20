"""Recordings as float32 mono at a model's rate, block by block: any length in flat memory.

Notable:
- The whole of a file is its blocks put together, so both give the same samples bit for bit.
- Nothing is allocated by what a header claims.
- Streams that follow one another in a file (`recording.py`) are read one after the other.
"""

import math
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from vqtrt.data.audio.recording import ESTIMATED, UNKNOWN, Recording, damaged
from vqtrt.data.source import Stored
from vqtrt.errors import AudioError, VqtrtError, unwritable
from vqtrt.system.atomic import replacing_file
from vqtrt.system.names import printable

Audio = NDArray[np.float32]
"""Mono samples (T,), float32 in [-1, 1] or a little beyond."""

_BLOCK_FRAMES = 1 << 16
_LOUDEST = 100.0
"""40 dB above full scale: beyond it numbers are no samples, or not scaled to [-1, 1]."""
_QUIET = 1e-5
"""RMS below which a recording is not brought to a level: it would be its noise."""
_WHOLE = 1 << 30
"""Samples that are read at once, 4 GiB."""
_WAV_SAMPLES = ((1 << 32) - 64) // 2
"""Of 16 bit: sizes are written in 32 bits, with the header's."""
_CANCELLED = 10 ** (-30 / 20)
"""Level of the sum of all channels, relative to the loudest of them, below which they cancel."""


class AudioPreprocessing(BaseModel):
    """Part of a model: recorded in its config and its bundle, so encode repeats what train did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_rate: int = Field(16000, ge=1000, le=192000)
    """Samples per second that recordings are brought to."""
    level_db: float | None = Field(None, ge=-80, le=0)
    """Level that each recording is brought to, RMS in dB of full scale; None leaves it alone."""


def read_blocks(path: Path | Stored, preprocessing: AudioPreprocessing) -> Iterator[Audio]:
    """The samples of a recording in blocks (n,) of some seconds: mixed to mono, resampled.

    WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF and whatever else libsndfile reads, of up to 64
    channels. Raises `AudioError` for what is missing, is no audio, is damaged or cut off, is empty,
    holds samples that are not finite, or channels that cancel when they are mixed;
    `ModuleNotFoundError` without the extra `speech`.
    """
    gain = 1.0
    if preprocessing.level_db is not None:
        gain = _gain(path, preprocessing.level_db)
    for block in _resampled(path, preprocessing.sample_rate):
        yield block if gain == 1.0 else block * np.float32(gain)


def read_audio(path: Path | Stored, preprocessing: AudioPreprocessing) -> Audio:
    """The whole of a recording (T,); what `read_blocks` gives, put together, and as it raises.

    Also raises `AudioError` for one of more than 2^30 samples (18 hours at 16 kHz).
    """
    blocks, count = [], 0
    for block in read_blocks(path, preprocessing):
        blocks.append(block)
        count += len(block)
        if count > _WHOLE:
            hours = _WHOLE / 3600 / preprocessing.sample_rate
            raise AudioError(f"{printable(path)}: is longer than {hours:.0f} hours; split it")
    return np.concatenate(blocks)


def audio_length(path: Path | Stored, preprocessing: AudioPreprocessing) -> int:
    """Samples that a recording comes to, by its header: resampling may give one more or less.

    Where the header leaves it open, the file is read. Raises as `read_blocks`.
    """
    with Recording(path) as recording:
        frames, rate = recording.frames(), recording.sample_rate
    if frames == UNKNOWN:
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

    Folders on the way are made. Raises `VqtrtError` if it cannot be written, or as
    `write_blocks`.
    """
    write_stream(path, [audio], None, sample_rate)


def write_stream(path: Path, blocks: Iterable[Audio], samples: int | None, rate: int) -> None:
    """The same of blocks (n,), of which the first `samples` are written, or all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as stage:
            write_blocks(stage, blocks, samples, rate)
    except OSError as error:
        raise unwritable(path, error) from error


def write_blocks(path: Path, blocks: Iterable[Audio], samples: int | None, rate: int) -> None:
    """Write the first `samples` of some blocks (n,), or all, as a wav of `rate` Hz.

    As `write_wav`, but it grows in its place, and stays there where it fails: for a file that is
    put in place afterwards. Raises `VqtrtError` for samples that are not numbers and for more than
    a wav holds, `OSError` if it cannot be written.
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


def _resampled(path: Path | Stored, rate: int) -> Iterator[Audio]:
    """Mono blocks at `rate`; none of them is empty, and there is at least one."""
    import soxr

    stream: Any = None
    given = False
    with Recording(path) as recording:
        own = recording.sample_rate
        if own != rate:
            stream = soxr.ResampleStream(own, rate, 1, dtype="float32", quality="HQ")
        # Up to a few times as many come out as go in, whatever the rates.
        frames = max(1, min(_BLOCK_FRAMES, 4 * _BLOCK_FRAMES * own // rate))
        for block, last in _mono(recording, frames):
            made = block if stream is None else stream.resample_chunk(block, last=last)
            if len(made):
                given = True
                yield made
    if not given:
        raise AudioError(f"{printable(path)}: is too short to be brought to {rate} Hz; remove it")


def _mono(recording: Recording, frames: int = _BLOCK_FRAMES) -> Iterator[tuple[Audio, bool]]:
    """Blocks of up to `frames` of a recording, checked, and whether each is the last."""
    done, ahead = 0, None
    for file in recording.streams():
        balance = _Balance(file.channels)
        for block in _blocks(recording.path, file, frames):
            mono = block[:, 0] if block.shape[1] == 1 else _mixed(block)
            if (at := bad_sample(mono)) is not None:
                raise AudioError(
                    f"{printable(recording.path)}: sample {done + at} is {mono[at]:g}; samples are "
                    "finite and within [-1, 1], so mend or remove the file"
                )
            balance.add(block, mono)
            done += len(block)
            if ahead is not None:
                yield ahead, False
            ahead = np.ascontiguousarray(mono)
        balance.check(recording.path)
    if ahead is None:
        raise AudioError(f"{printable(recording.path)}: holds no samples; remove it")
    yield ahead, True


def _blocks(path: Path | Stored, file: Any, frames: int) -> Iterator[NDArray[np.float32]]:
    """Blocks (n, c) of a stream of soundfile's, none of them empty."""
    import soundfile

    counted = file.format not in ESTIMATED and file.frames < UNKNOWN
    done = 0
    # Not beyond what the header counts: a tag behind a FLAC would be taken for damage.
    while wanted := min(frames, file.frames - done) if counted else frames:
        try:
            block = file.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise damaged(path, str(error)) from None
        if not len(block):
            break
        done += len(block)
        yield block
    if counted and done < file.frames:
        raise damaged(path, f"it is cut off: it ends after {done} of {file.frames} samples")


class _Balance:
    """Whether the channels of a stream cancel when they are mixed, so that silence is left."""

    def __init__(self, channels: int) -> None:
        self._channels = np.zeros(channels)
        self._mixed, self._count = 0.0, 0

    def add(self, block: NDArray[np.float32], mono: Audio) -> None:
        """Add a block (n, c) and its mean (n,)."""
        if block.shape[1] > 1:
            self._channels += np.einsum("nc,nc->c", block, block, dtype=np.float64)
            self._mixed += float(np.square(mono, dtype=np.float64).sum())
            self._count += len(mono)

    def check(self, path: Path | Stored) -> None:
        """Raise `AudioError` if they do."""
        count = len(self._channels)
        loudest = math.sqrt(self._channels.max() / max(1, self._count))
        # Their sum, not the mean: one voice among many silent channels is no fault.
        total = count * math.sqrt(self._mixed / max(1, self._count))
        if loudest > _QUIET and total < _CANCELLED * loudest:
            left = "silence"
            if total:
                left = f"{20 * math.log10(loudest / total):.0f} dB below the loudest of them"
            raise AudioError(
                f"{printable(path)}: its {count} channels cancel out: their mix is {left}; keep "
                f"one: "
                f"ffmpeg -i {printable(path.name)} -af 'pan=mono|c0=c0' "
                f"{printable(path.stem)}-mono.flac"
            )


def _mixed(block: NDArray[np.float32]) -> Audio:
    """The mean of the channels (n, c)."""
    # Infinite channels give NaN, of which the caller makes an error.
    with np.errstate(invalid="ignore", over="ignore"):
        mixed: Audio = block.mean(1, dtype=np.float32)
    return mixed


def _gain(path: Path | Stored, level_db: float) -> float:
    """What brings a recording's RMS to a level; a pass over the file."""
    squares, count = 0.0, 0
    with Recording(path) as recording:
        for block, _ in _mono(recording):
            squares += float(np.square(block, dtype=np.float64).sum())
            count += len(block)
    rms = math.sqrt(squares / count)
    return 1.0 if rms < _QUIET else float(10 ** (level_db / 20)) / rms
