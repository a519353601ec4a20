"""Whole collections of recordings through a tokenizer: speech to a codes file, and back to wavs.

As `pipeline.py` for images: reading happens in threads while the engine works, jobs resume, and
memory holds a few batches and one chunk, however many recordings there are and however long.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

import vqtrt
from vqtrt.artefacts import Artefacts
from vqtrt.bundle import ModelFacts, SpeechFacts
from vqtrt.data.audio import AudioPreprocessing, write_blocks
from vqtrt.data.batches import OnError
from vqtrt.data.clip_codes import ClipCodes, ClipHeader, check_clip_codes
from vqtrt.data.clips import Clip, CountedBlocks, read_clips
from vqtrt.data.codes import short
from vqtrt.data.codes_writer import ClipWriter
from vqtrt.data.source import Item
from vqtrt.data.speech import SpeechFolder, SpeechSource
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.pipeline import (
    EncodeResult,
    Progress,
    finish,
    list_source,
    output_names,
    require_outside,
    staged,
)
from vqtrt.speech_tokenizer import Audio, SpeechTokenizer

_COMMIT_SECONDS = 2.0
_WINDOW = 4
"""Batches of recordings that are sorted by length among themselves."""


class SpeechDecoder(Protocol):
    """What makes audio of codes: a tokenizer with a conv decoder, or a WaveNet's loop."""

    @property
    def facts(self) -> ModelFacts:
        """Codebook size and stride."""

    @property
    def speech(self) -> SpeechFacts:
        """Speakers and sample rate."""

    def stream(
        self, codes: Sequence[NDArray[Any]], speakers: Sequence[int]
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """Index after index in any order, each with the audio (t·stride,) of that clip in blocks.

        A clip's blocks are taken before the next clip is asked for.
        """


def encode_speech(
    tokenizer: SpeechTokenizer,
    source: SpeechSource,
    out: Path,
    *,
    root: str,
    model: Artefacts,
    preprocessing: AudioPreprocessing | None = None,
    workers: int,
    on_error: OnError = "stop",
    resume: bool = False,
    progress: Progress = lambda done, total: None,
) -> EncodeResult:
    """Write the codes of recordings to `out` (.npy) and a .json beside it, in the source's order.

    `preprocessing` replaces the model's own; its sample rate has to be the same. Where a recording
    cannot be read, raises `AudioError` and leaves no `out`; with `on_error="skip"` the .json lists
    it as rejected. What was done when a job stopped is kept beside `out`, and `resume` continues
    it. Where no recording at all can be read, raises `VqtrtError` and leaves nothing.
    """
    if isinstance(source, SpeechFolder) and source.root.is_dir():
        require_outside(out, source.root, root)
    how = preprocessing or tokenizer.preprocessing
    if how.sample_rate != tokenizer.preprocessing.sample_rate:
        raise VqtrtError(
            f"sample rate {how.sample_rate}: the model takes {tokenizer.preprocessing.sample_rate}"
        )
    listing = list_source(source)
    header = ClipHeader(
        codebook_size=tokenizer.codebook_size,
        sample_rate=how.sample_rate,
        stride=tokenizer.stride,
        classes=source.classes,
        root=root,
        listing_sha256=listing.sha256,
        weights_sha256=tokenizer.engine.weights_sha256,
        precision=tokenizer.engine.precision,
        model={"path": str(model.path), "engine": tokenizer.engine.name},
        preprocessing=how.model_dump(mode="json"),
        vqtrt_version=vqtrt.__version__,
    )
    with ClipWriter(out, header=header, resume=resume) as writer:
        resumed_at, committed = writer.files_done, time.monotonic()
        progress(resumed_at, listing.items)
        groups = encoded_clips(
            tokenizer, source, how, workers=workers, on_error=on_error, skip=resumed_at
        )
        # Threads stop at an error, too, and not only when its traceback is gone.
        with closing(groups):
            for group in groups:
                _write(writer, group)
                if time.monotonic() - committed > _COMMIT_SECONDS:
                    writer.commit()
                    committed = time.monotonic()
                progress(writer.files_done, listing.items)
        return finish(writer, listing, resumed_at, root, "a recording")


class Encoded(NamedTuple):
    """What became of a recording: its codes, or why there are none."""

    item: Item
    codes: NDArray[Any] | None
    """(t,) in the smallest unsigned dtype."""
    samples: int
    error: AudioError | None = None


def encoded_clips(
    tokenizer: SpeechTokenizer,
    source: SpeechSource,
    preprocessing: AudioPreprocessing,
    *,
    workers: int,
    on_error: OnError = "stop",
    skip: int = 0,
) -> Generator[list[Encoded], None, None]:
    """All recordings of a source in its order, after its first `skip`: some at a time, encoded.

    Raises `AudioError` for the first that cannot be read, or gives it with `on_error="skip"`.
    """
    window = _WINDOW * tokenizer.batch_size
    clips = read_clips(
        source,
        preprocessing,
        most=tokenizer.chunk * tokenizer.stride,
        ahead=window,
        workers=workers,
        skip=skip,
    )
    with closing(clips):
        for group in _groups(clips, window, on_error):
            yield _encode(tokenizer, group, on_error)


def _groups(clips: Iterator[Clip], window: int, on_error: OnError) -> Iterator[list[Clip]]:
    """Clips to encode together: a long one by itself, and as many of the others as a window has.

    Where an error stops the job, what came before it is encoded first.
    """
    group: list[Clip] = []
    for clip in clips:
        alone = clip.blocks is not None or (clip.error is not None and on_error == "stop")
        if group and (alone or len(group) == window):
            yield group
            group = []
        if clip.error is not None and on_error == "stop":
            raise clip.error
        if alone:
            yield [clip]
        else:
            group.append(clip)
    if group:
        yield group


def _encode(tokenizer: SpeechTokenizer, group: list[Clip], on_error: OnError) -> list[Encoded]:
    codes = iter(tokenizer.encode([clip.audio for clip in group if clip.audio is not None]))
    encoded = []
    for clip in group:
        if clip.audio is not None:
            encoded.append(Encoded(clip.item, next(codes), len(clip.audio)))
        elif clip.blocks is None:
            encoded.append(Encoded(clip.item, None, 0, clip.error))
        else:
            counted = CountedBlocks(clip.blocks)
            try:
                made = tokenizer.encode_blocks(counted)
            except AudioError as error:
                if on_error == "stop":
                    raise
                encoded.append(Encoded(clip.item, None, 0, error))
            else:
                encoded.append(Encoded(clip.item, made, counted.samples))
    return encoded


def _write(writer: ClipWriter, group: list[Encoded]) -> None:
    """Write a group's codes, or why there are none."""
    names, labels, codes, samples = list[str](), list[int](), list[NDArray[Any]](), list[int]()
    for clip in group:
        if clip.codes is not None:
            names.append(clip.item.name)
            labels.append(clip.item.label)
            codes.append(clip.codes)
            samples.append(clip.samples)
    writer.write(names, labels, codes, samples)
    for clip in group:
        if clip.error is not None:
            writer.reject(clip.item.name, str(clip.error))


def decode_speech(
    decoder: SpeechDecoder,
    codes: ClipCodes,
    out: Path,
    *,
    speaker: str | None = None,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write every clip of `codes` as a .wav (16 bit) below the folder `out`; returns how many.

    Each in the voice of `speaker`, or its own. A wav is named like the file that its clip came
    from, or by its number, and as long as that file was. All codes are checked first, and wavs
    appear in `out` only when all of them are decoded. Raises `VqtrtError` for codes that are not of
    such a model, and for an unknown speaker.
    """
    _require_fit(decoder, codes)
    numbers = speaker_numbers(codes, decoder.speech.speakers, speaker)
    count = len(codes)
    names = output_names(codes.files, count, codes.path, ".wav")
    progress(0, count)
    with staged(out) as stage:
        clips = [codes.clip(index) for index in range(count)]
        rate = decoder.speech.preprocessing.sample_rate
        for done, (index, blocks) in enumerate(decoder.stream(clips, numbers), 1):
            samples = codes.samples[index] if codes.samples else None
            write_blocks(stage / names[index], blocks, samples, rate)
            progress(done, count)
    return count


def speaker_number(known: Sequence[str], name: str) -> int:
    """A speaker's number, by name; `VqtrtError`, which names those that are known, for others."""
    if name in known:
        return known.index(name)
    if not known:
        raise VqtrtError(f"speaker {short(name)}: the model knows no speakers; leave --speaker out")
    raise VqtrtError(f"speaker {short(name)}: unknown to the model; it knows {', '.join(known)}")


def speaker_numbers(codes: ClipCodes, known: Sequence[str], speaker: str | None) -> list[int]:
    """Each clip's speaker as a number of the model: `speaker`, or else its own, found by name.

    The count of `known` stands for none, where the model knows none. Raises `VqtrtError` for a
    clip without a speaker that is known.
    """
    if speaker is not None:
        return [speaker_number(known, speaker)] * len(codes)
    if not known:
        return [0] * len(codes)
    names = codes.header.classes if codes.header else ()
    numbers = [known.index(name) if name in known else None for name in names]
    found = []
    for index in range(len(codes)):
        label = codes.labels[index] if codes.labels else -1
        number = numbers[label] if label >= 0 else None
        if number is None:
            own = "has no speaker"
            if label >= 0:
                own = f"is of {short(names[label])}, unknown to the model"
            raise VqtrtError(
                f"{codes.path}: {codes.name(index)} {own}; give a speaker with --speaker: "
                f"{', '.join(known)}"
            )
        found.append(number)
    return found


def _require_fit(decoder: SpeechDecoder, codes: ClipCodes) -> None:
    header, facts = codes.header, decoder.facts
    rate = decoder.speech.preprocessing.sample_rate
    if header is not None and (header.stride, header.sample_rate) != (facts.stride, rate):
        raise VqtrtError(
            f"{codes.path}: codes of {header.stride} samples at {header.sample_rate} Hz, but the "
            f"model's are of {facts.stride} at {rate} Hz; give the model that made these codes"
        )
    check_clip_codes(codes, facts.codebook_size)
