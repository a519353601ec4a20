"""Codes of clips to a folder of wavs, by a tokenizer or by a WaveNet's loop (`vqtrt decode`)."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from vqtrt.audio.chunks import Audio
from vqtrt.audio.speakers import speaker_numbers
from vqtrt.data.audio.decode import write_blocks
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes, check_clip_codes
from vqtrt.formats.bundle import ModelInfo, SpeechInfo
from vqtrt.formats.output_names import name_limits, output_names
from vqtrt.jobs.decode import FilesWriter, check_files_out, codes_sha256, write_files
from vqtrt.jobs.loop import Note, Progress, Resumed, Steps, ignore


class AudioDecoder(Protocol):
    """What makes audio of codes: a tokenizer with a conv decoder, or a WaveNet's loop."""

    @property
    def info(self) -> ModelInfo:
        """Codebook size and stride."""

    @property
    def speech(self) -> SpeechInfo:
        """Speakers and sample rate."""

    def fingerprint(self) -> dict[str, Any]:
        """What the audio depends on besides the codes: weights, precision, noise."""

    def stream(
        self,
        codes: Sequence[NDArray[Any]],
        speakers: Sequence[int],
        *,
        done: Collection[int] = (),
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """Index after index in any order, each with the audio (t·stride,) of that clip in blocks.

        A clip's blocks are taken before the next clip is asked for. Batches whose clips are all in
        `done` are left out, and the others are what they would be without it.
        """


def decode_codes(
    decoder: AudioDecoder,
    codes: ClipCodes,
    out: Path,
    *,
    speaker: str | None = None,
    note: Note = lambda text: None,
    resume: bool = False,
    resumed: Resumed = lambda count: None,
    keep: bool = True,
    progress: Progress = ignore,
) -> int:
    """Write every clip of `codes` as a .wav (16 bit) into a folder or a .tar; returns how many.

    Each in the voice of `speaker`, or its own. A wav is named like the file that its clip came
    from, or by its number, and as long as that file was; `note` is told where names had to be
    shortened. All codes are checked first, and wavs appear in `out` only when all of them are
    decoded. `resume` continues a job that was interrupted, and calls `resumed`; without `keep`
    there will be nothing to resume. Raises `VqtrtError` for codes that are not of such a model, and
    for an unknown speaker.
    """
    check_files_out(out)
    _require_fit(decoder, codes)
    numbers = speaker_numbers(codes, decoder.speech.speakers, speaker)
    count = len(codes)
    names = output_names(codes.files, count, codes.path, ".wav", name_limits(out), note)
    job = {
        "kind": "wavs",
        "codes_sha256": codes_sha256(codes.codes),
        "clips": [list(codes.offsets), list(codes.samples or ())],
        "speakers": numbers,
        **decoder.fingerprint(),
    }

    def steps(writer: FilesWriter) -> Steps:
        clips = [codes.clip(index) for index in range(count)]
        rate = decoder.speech.preprocessing.sample_rate
        for index, blocks in decoder.stream(clips, numbers, done=frozenset(writer.done)):
            samples = codes.samples[index] if codes.samples else None
            write_blocks(writer.path(index), blocks, samples, rate)
            writer.wrote([index])
            yield len(writer.done)

    return write_files(
        out, job, names, steps, resume=resume, resumed=resumed, keep=keep, progress=progress
    )


def _require_fit(decoder: AudioDecoder, codes: ClipCodes) -> None:
    header, info = codes.header, decoder.info
    rate = decoder.speech.preprocessing.sample_rate
    if header is not None and (header.stride, header.sample_rate) != (info.stride, rate):
        raise VqtrtError(
            f"{codes.path}: codes of {header.stride} samples at {header.sample_rate} Hz, but the "
            f"model's are of {info.stride} at {rate} Hz; give the model that made these codes"
        )
    check_clip_codes(codes, info.codebook_size)
