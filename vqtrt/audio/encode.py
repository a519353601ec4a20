"""A source of recordings through a tokenizer, to a codes file (`vqtrt encode`).

Recordings are read ahead in threads while the engine works. Memory holds a few batches and one
chunk, however many recordings there are and however long.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.chunks import Audio
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.audio.clips import Clip, CountedBlocks, read_clips
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.reading import OnError
from vqtrt.data.source import Item
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.formats.audio_codes import ClipHeader, read_clip_codes
from vqtrt.formats.codes_writer import ClipWriter, WritesClips
from vqtrt.formats.shard_writer import ClipShard
from vqtrt.jobs.encode import (
    EncodeOptions,
    EncodeParts,
    EncodeResult,
    require_outside,
    run_encode,
)
from vqtrt.jobs.loop import Steps, ignore, run_steps
from vqtrt.jobs.shards import run_shards
from vqtrt.jobs.stages import Stages

_NO_CODES = np.zeros(0, np.uint8)
_AHEAD = 4
"""Batches of recordings that are read before they are needed."""
_WHOLE = 8
"""Chunks of a recording that is read at once, by any of the workers; a minute at 16 kHz."""


def encode_source(
    tokenizer: AudioTokenizer, source: AudioSource, out: Path, **options: Unpack[EncodeOptions]
) -> EncodeResult:
    """Write the codes of recordings to `out` (.npy) and a .json beside it, in the source's order.

    An `out` that does not end in .npy becomes a folder of shards (`formats/shards.py`); the same
    call continues an interrupted one.

    The sample rate of a `preprocessing` has to be the model's. If a recording cannot be read,
    raises `AudioError` and leaves no `out`; with `on_error="skip"` the .json lists it as rejected.
    What was done when a job stopped is kept beside `out`, and `resume` continues it; an `out` that
    this very job has finished stays. Raises `VqtrtError` if no recording at all can be read.
    """
    require_outside(out, source)
    how: AudioPreprocessing = options.get("preprocessing") or tokenizer.preprocessing
    if how.sample_rate != tokenizer.preprocessing.sample_rate:
        raise VqtrtError(
            f"sample rate {how.sample_rate}: the model takes {tokenizer.preprocessing.sample_rate}"
        )

    def header(fields: dict[str, Any]) -> ClipHeader:
        preprocessing = how.model_dump(mode="json")
        rate, stride = how.sample_rate, tokenizer.stride
        return ClipHeader(sample_rate=rate, stride=stride, preprocessing=preprocessing, **fields)

    stages = Stages()

    def steps(source: AudioSource, writer: WritesClips, skip: int) -> Steps:
        with closing(encoded_clips(tokenizer, source, options, stages, skip=skip)) as clips:
            for clip in stages.each("engine", clips):
                with stages.of("write"):
                    _write(writer, clip)
                yield writer.files_done

    parts = EncodeParts(
        item="a recording",
        header=header,
        writer=ClipWriter,
        shard=ClipShard,
        read=lambda path: (len(codes := read_clip_codes(path)), codes.rejected),
        stages=stages,
        steps=steps,
    )
    run = run_encode if out.suffix == ".npy" else run_shards
    return run(tokenizer, source, out, options, parts)


def _write(writer: WritesClips, clip: "Encoded") -> None:
    if clip.error is not None:
        writer.reject(clip.item.name, str(clip.error))
    else:
        writer.write([clip.item.name], [clip.item.label], [clip.codes], [clip.samples])


class Encoded(NamedTuple):
    """What became of a recording: its codes, or why there are none."""

    item: Item
    codes: NDArray[Any]
    """(t,) in the smallest unsigned dtype; none if there is an error."""
    samples: int
    error: AudioError | None = None


def encode_each(
    tokenizer: AudioTokenizer,
    source: AudioSource,
    take: Callable[[Encoded], None],
    options: EncodeOptions,
) -> tuple[tuple[str, str], ...]:
    """Encode all recordings of a source, and give each one that has codes to `take`.

    Returns the names of the others, each with the reason: those that could not be read, and those
    for which `take` raised `AudioError`. With `on_error="stop"` the first such error is raised.
    """
    rejected = list[tuple[str, str]]()

    def steps() -> Steps:
        with closing(encoded_clips(tokenizer, source, options, Stages())) as clips:
            for done, clip in enumerate(clips, 1):
                try:
                    if clip.error is not None:
                        raise clip.error
                    take(clip)
                except AudioError as error:
                    if options.get("on_error", "stop") == "stop":
                        raise
                    rejected.append((clip.item.name, str(error)))
                yield done

    total = sum(1 for _ in source.items())
    run_steps(steps(), total, options.get("progress", ignore))
    return tuple(rejected)


def encoded_clips(
    tokenizer: AudioTokenizer,
    source: AudioSource,
    options: EncodeOptions,
    stages: Stages,
    *,
    skip: int = 0,
) -> Generator[Encoded]:
    """All recordings of a source in its order, after its first `skip`, encoded.

    Chunks of several recordings share a batch, so they come some recordings after they were read.
    Raises `AudioError` for the first that cannot be read, after those before it; or gives it with
    `on_error="skip"`.
    """
    on_error = options.get("on_error", "stop")
    how = options.get("preprocessing") or tokenizer.preprocessing
    clips = clips_ahead(tokenizer, source, how, workers=options["workers"], skip=skip)
    begun: deque[_Begun] = deque()

    def recordings() -> Iterator[Iterator[Audio]]:
        for clip in stages.each("read", clips):
            begun.append(one := _Begun(clip))
            if one.error is None:
                yield stages.each("read", one.blocks())
            if one.error is not None and on_error == "stop":
                return

    def unread() -> Iterator[Encoded]:
        """Those that come next and of which there was nothing to encode."""
        while begun and begun[0].unread:
            yield begun.popleft().result(_NO_CODES, on_error)

    with closing(clips):
        for codes in tokenizer.encode_stream(recordings()):
            yield from unread()
            yield begun.popleft().result(codes, on_error)
        yield from unread()


def clips_ahead(
    tokenizer: AudioTokenizer,
    source: AudioSource,
    preprocessing: AudioPreprocessing,
    *,
    workers: int,
    skip: int = 0,
) -> Generator[Clip]:
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

    def result(self, codes: NDArray[Any], on_error: OnError) -> Encoded:
        """What became of it. Raises its error with `on_error="stop"`."""
        if self.error is None:
            return Encoded(self._item, codes, self._blocks.samples)
        if on_error == "stop":
            raise self.error
        return Encoded(self._item, _NO_CODES, 0, self.error)
