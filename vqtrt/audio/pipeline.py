"""Whole collections of recordings through a tokenizer: speech to a codes file, and back to wavs.

As `images/pipeline.py` for images: reading happens in threads while the engine works, jobs resume,
and memory holds a few batches and one chunk, however many recordings there are and however long.
"""

import time
from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

import vqtrt
from vqtrt.audio.tokenizer import Audio, AudioTokenizer
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.clips import Clip, CountedBlocks, read_clips
from vqtrt.data.audio.decode import AudioPreprocessing, write_blocks
from vqtrt.data.audio.open import SpeechFolder, SpeechSource
from vqtrt.data.images.batches import OnError
from vqtrt.data.source import Item
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.formats.audio_codes import ClipCodes, ClipHeader, check_clip_codes, read_clip_codes
from vqtrt.formats.bundle import ModelInfo, SpeechInfo
from vqtrt.formats.codes import short
from vqtrt.formats.codes_writer import ClipWriter, check_codes_out, is_complete
from vqtrt.formats.folder_writer import FolderWriter, is_finished
from vqtrt.formats.output_names import name_limits, output_names
from vqtrt.images.pipeline import (
    EncodeResult,
    Note,
    Progress,
    Resumed,
    already_done,
    codes_sha256,
    finish,
    list_source,
    require_outside,
)
from vqtrt.system.atomic import check_folder

_COMMIT_SECONDS = 2.0
_AHEAD = 4
"""Batches of recordings that are read before they are needed."""
_WHOLE = 8
"""Chunks of a recording that is read at once, by any of the workers; a minute at 16 kHz."""


class SpeechDecoder(Protocol):
    """What makes audio of codes: a tokenizer with a conv decoder, or a WaveNet's loop."""

    @property
    def facts(self) -> ModelInfo:
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


def encode_speech(
    tokenizer: AudioTokenizer,
    source: SpeechSource,
    out: Path,
    *,
    root: str,
    model: ModelLocation,
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
    it; an `out` that this very job has finished stays. Where no recording at all can be read,
    raises `VqtrtError` and leaves nothing.
    """
    if isinstance(source, SpeechFolder) and source.root.is_dir():
        require_outside(out, source.root, root)
    how = preprocessing or tokenizer.preprocessing
    if how.sample_rate != tokenizer.preprocessing.sample_rate:
        raise VqtrtError(
            f"sample rate {how.sample_rate}: the model takes {tokenizer.preprocessing.sample_rate}"
        )
    check_codes_out(out)
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
    if resume and is_complete(out, header):
        done = read_clip_codes(out)
        return already_done(out, len(done), done.rejected, listing)
    with ClipWriter(out, header=header, resume=resume) as writer:
        resumed_at, committed = writer.files_done, time.monotonic()
        progress(resumed_at, listing.items)
        clips = encoded_clips(
            tokenizer, source, how, workers=workers, on_error=on_error, skip=resumed_at
        )
        # Threads stop at an error, too, and not only when its traceback is gone.
        with closing(clips):
            for clip in clips:
                if clip.codes is None:
                    writer.reject(clip.item.name, str(clip.error))
                else:
                    writer.write([clip.item.name], [clip.item.label], [clip.codes], [clip.samples])
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
    tokenizer: AudioTokenizer,
    source: SpeechSource,
    preprocessing: AudioPreprocessing,
    *,
    workers: int,
    on_error: OnError = "stop",
    skip: int = 0,
) -> Generator[Encoded, None, None]:
    """All recordings of a source in its order, after its first `skip`, encoded.

    Chunks of several recordings share a batch, so they come some recordings after they were read.
    Raises `AudioError` for the first that cannot be read, after those before it; or gives it with
    `on_error="skip"`.
    """
    clips = clips_ahead(tokenizer, source, preprocessing, workers=workers, skip=skip)
    begun: deque[_Begun] = deque()

    def recordings() -> Iterator[Iterator[Audio]]:
        for clip in clips:
            begun.append(one := _Begun(clip))
            if one.error is None:
                yield one.blocks()
            if one.error is not None and on_error == "stop":
                return

    def unread() -> Iterator[Encoded]:
        """Those that come next and of which there was nothing to encode."""
        while begun and begun[0].unread:
            yield begun.popleft().result(None, on_error)

    with closing(clips):
        for codes in tokenizer.encode_stream(recordings()):
            yield from unread()
            yield begun.popleft().result(codes, on_error)
        yield from unread()


def clips_ahead(
    tokenizer: AudioTokenizer,
    source: SpeechSource,
    preprocessing: AudioPreprocessing,
    *,
    workers: int,
    skip: int = 0,
) -> Generator[Clip, None, None]:
    """`read_clips`, as far ahead as a tokenizer works on recordings together."""
    return read_clips(
        source,
        preprocessing,
        most=_WHOLE * tokenizer.chunk * tokenizer.stride,
        ahead=_AHEAD * tokenizer.batch_size,
        workers=workers,
        skip=skip,
    )


class _Begun:
    """A recording that goes through a tokenizer."""

    def __init__(self, clip: Clip) -> None:
        self._item, self.error = clip.item, clip.error
        self.unread = clip.error is not None
        """Whether not even its beginning could be read."""
        whole = iter([] if clip.audio is None else [clip.audio])
        self._blocks = CountedBlocks(whole if clip.blocks is None else clip.blocks)

    def blocks(self) -> Iterator[Audio]:
        """What can be read of it."""
        try:
            yield from self._blocks
        except AudioError as error:
            self.error = error

    def result(self, codes: NDArray[Any] | None, on_error: OnError) -> Encoded:
        """What became of it. Raises its error with `on_error="stop"`."""
        if self.error is None:
            return Encoded(self._item, codes, self._blocks.samples)
        if on_error == "stop":
            raise self.error
        return Encoded(self._item, None, 0, self.error)


def decode_speech(
    decoder: SpeechDecoder,
    codes: ClipCodes,
    out: Path,
    *,
    speaker: str | None = None,
    note: Note = lambda text: None,
    resume: bool = False,
    resumed: Resumed = lambda count: None,
    keep: bool = True,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write every clip of `codes` as a .wav (16 bit) below the folder `out`; returns how many.

    Each in the voice of `speaker`, or its own. A wav is named like the file that its clip came
    from, or by its number, and as long as that file was; `note` is told where names had to be
    shortened. All codes are checked first, and wavs appear in `out` only when all of them are
    decoded; `resume` is as for `decode_codes`, and without `keep` there will be nothing to resume.
    Raises `VqtrtError` for codes that are not of
    such a model, and for an unknown speaker.
    """
    check_folder(out)
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
    if resume and is_finished(out, job, names):
        resumed(count)
        return count
    with FolderWriter(out, job, names, resume=resume, keep=keep) as writer:
        resumed(len(writer.done))
        progress(len(writer.done), count)
        clips = [codes.clip(index) for index in range(count)]
        rate = decoder.speech.preprocessing.sample_rate
        for index, blocks in decoder.stream(clips, numbers, done=frozenset(writer.done)):
            samples = codes.samples[index] if codes.samples else None
            write_blocks(writer.path(index), blocks, samples, rate)
            writer.wrote([index])
            progress(len(writer.done), count)
        writer.finish()
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
