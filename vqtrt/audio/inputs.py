"""What a user gives to a speech tokenizer, checked: recordings, and codes with speakers."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.audio.decode import Audio, bad_sample
from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import ModelInfo, SpeechInfo
from vqtrt.formats.code_values import first_bad

Clips = Sequence[NDArray[Any]]
"""Codes (t,) of clips, integers of any dtype."""
Done = Collection[int]
"""Indices of clips; batches that hold no others are left out."""


class ClipOptions(TypedDict, total=False):
    """What is known of clips of codes that are decoded."""

    samples: Sequence[int] | None
    """Each clip's samples (default: t·stride)."""
    numbers: Sequence[int] | None
    """Each clip's number in the seed of a WaveNet decoder (default: 0, 1, 2, …)."""


def checked_lengths(
    codes: Sequence[NDArray[Any]],
    speakers: Sequence[int],
    samples: Sequence[int] | None,
    info: ModelInfo,
    speech: SpeechInfo,
) -> list[int]:
    """The samples that clips of codes (t,) are decoded to: `samples`, or t·stride of each.

    Raises `VqtrtError` for codes that are not (t,) and in the codebook, or an unknown speaker, and
    `ValueError` for arguments of different length, or more samples than a clip's codes stand for.
    """
    count = len(codes)
    if not count == len(speakers) == len(codes if samples is None else samples):
        lengths = "" if samples is None else f" and {len(samples)} lengths"
        raise ValueError(f"{count} clips, {len(speakers)} speakers{lengths}")
    found = []
    for index, (clip, speaker) in enumerate(zip(codes, speakers, strict=True)):
        _check_clip(index, clip, speaker, info, speech)
        most = len(clip) * info.stride
        found.append(most if samples is None else samples[index])
        if not 0 <= found[-1] <= most:
            raise ValueError(f"clip {index}: {found[-1]} samples of {most} in its codes")
    return found


def _check_clip(
    index: int, codes: NDArray[Any], speaker: int, info: ModelInfo, speech: SpeechInfo
) -> None:
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise VqtrtError(f"clip {index}: codes are integers (t,), not {codes.dtype} {codes.shape}")
    if bad := first_bad(codes, info.codebook_size):
        (place, *_), value, reason = bad
        raise VqtrtError(f"clip {index} holds {value} at {place}, but {reason}")
    if not 0 <= speaker <= len(speech.speakers):
        raise VqtrtError(
            f"clip {index}: speaker {speaker}, but the model has {len(speech.speakers)} "
            "(their count stands for none)"
        )


def rows_of(audio: Iterable[Any]) -> Iterable[Any]:
    """What is in a sequence, or the rows of an array; `VqtrtError` if its time comes first."""
    if not hasattr(audio, "__array__"):
        return audio
    array: NDArray[Any] = np.asarray(audio)
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        raise VqtrtError(
            f"audio of shape {array.shape}: a row is a recording, but here time comes first; "
            "transpose it (audio.T), and mix the channels of one recording (audio.mean(1))"
        )
    return array


def checked_audio(audio: NDArray[np.floating[Any]]) -> Audio:
    """One recording, or a part of one, as float32."""
    audio = np.asarray(audio)
    if audio.ndim != 1 or audio.dtype.kind != "f":
        hint = ""
        if audio.ndim == 2:
            channels = int(np.argmin(audio.shape))
            hint = f"; mix its channels to one: audio.mean({channels})"
        elif audio.dtype.kind in "iu":
            hint = "; divide 16-bit samples by 32768"
        raise VqtrtError(
            f"audio must be float32 of shape (samples,) in [-1, 1], not {audio.dtype} "
            f"{audio.shape}{hint}"
        )
    if (at := bad_sample(audio)) is not None:
        raise VqtrtError(
            f"audio: sample {at} is {audio[at]:g}; samples are finite and within [-1, 1]: divide "
            "16-bit samples by 32768"
        )
    return audio.astype(np.float32, copy=False)


def require_speech(engine: Engine) -> SpeechInfo:
    """What an engine's model of audio is; `VqtrtError` for a model of images."""
    if engine.speech is None:
        raise VqtrtError(
            "the model is of images, and this needs one of audio: name another --model"
        )
    return engine.speech
