"""Recordings to codes and back, over any engine.

Notable: recordings go through in chunks (see `audio/chunks.py`), and those of several recordings
share a batch. Memory does not grow with a recording, and its codes are those of the whole. A call
keeps what it works on to itself, so any number of threads may use one tokenizer.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.chunks import Audio, Chunk, ChunkBatches, ChunkGraph, cut
from vqtrt.audio.conv_decoder import ConvDecoder
from vqtrt.audio.inputs import ClipOptions, Clips, Done, checked_audio, require_speech, rows_of
from vqtrt.audio.speakers import Speakers, numbered
from vqtrt.audio.wavenet_decoder import WaveNetDecoder
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.decode import AudioPreprocessing, read_audio
from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import codes_in
from vqtrt.formats.bundle import SpeechInfo
from vqtrt.formats.codes import codes_dtype
from vqtrt.jobs.encode import EncodeResult
from vqtrt.jobs.files import FileOptions, open_files, selection
from vqtrt.jobs.tokenizer import Tokenizer


class AudioTokenizer(Tokenizer):
    """A model of speech, ready to turn recordings into codes and codes into recordings.

    Graphs are opened when they are first needed. `batch_size` bounds how many recordings go through
    the engine at once; codes and audio of one do not depend on the others. `temperature` and `seed`
    are of a WaveNet decoder, which draws its samples. Threads may share a tokenizer; it can be
    pickled and used after a fork. Raises `VqtrtError` for a model of images.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        batch_size: int = 16,
        temperature: float = 1.0,
        seed: int = 0,
        location: ModelLocation | None = None,
    ) -> None:
        super().__init__(engine, batch_size, location)
        self.speech: SpeechInfo = require_speech(engine)
        self._encoder = ChunkGraph(engine, "encoder", batch_size, self.speech.context)
        self._decoder: ConvDecoder | WaveNetDecoder
        if self.speech.decoder == "wavenet":
            self._decoder = WaveNetDecoder(
                engine, batch_size=batch_size, temperature=temperature, seed=seed
            )
        else:
            self._decoder = ConvDecoder(engine, batch_size=batch_size)

    @property
    def preprocessing(self) -> AudioPreprocessing:
        """How files are brought to what the model was trained on."""
        return self.speech.preprocessing

    @property
    def chunk(self) -> int:
        """Codes of a chunk to encode, with those around it that are cut off."""
        return self._encoder.chunk

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the speakers that the decoder knows; a speaker's number is its place."""
        return self.speech.speakers

    @overload
    def encode(self, audio: NDArray[np.floating[Any]]) -> NDArray[Any]: ...
    @overload
    def encode(self, audio: Sequence[NDArray[np.floating[Any]]]) -> list[NDArray[Any]]: ...
    def encode(
        self, audio: NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]]
    ) -> NDArray[Any] | list[NDArray[Any]]:
        """Codes (t,) of recordings (T,) in [-1, 1] at the model's rate, or of one; t = T/stride.

        An array (N, T) is N recordings. The end of each is filled up with zeros to a whole code.
        Codes have the smallest unsigned dtype that holds them. Raises `VqtrtError` for what is no
        float, has no samples, is not finite, or is far beyond [-1, 1] (as of a file), and for an
        array with more rows than columns, whose time comes first.
        """
        if hasattr(audio, "__array__"):
            array = np.asarray(audio)
            if array.ndim == 1:
                return self.encode([array])[0]
        clips = [checked_audio(clip) for clip in rows_of(audio)]
        if not all(len(clip) for clip in clips):
            raise VqtrtError("audio of 0 samples: there is nothing to encode; leave it out")
        return list(self._encode([clip] for clip in clips))

    def encode_blocks(self, blocks: Iterable[NDArray[np.floating[Any]]]) -> NDArray[Any]:
        """Codes (t,) of one recording of any length, given in consecutive blocks (n,).

        The codes are those of the whole. Raises `VqtrtError` as `encode`, and what `blocks` raises.
        """
        (codes,) = self.encode_stream([blocks])
        if not len(codes):
            raise VqtrtError("audio of 0 samples: there is nothing to encode; leave it out")
        return codes

    def encode_stream(
        self, recordings: Iterable[Iterable[NDArray[np.floating[Any]]]]
    ) -> Iterator[NDArray[Any]]:
        """The codes (t,) of recordings one after the other, each given in blocks as above.

        In bounded memory, however many and however long they are. A recording's blocks are taken
        before the next recording is asked for, and its codes come some recordings later; of no
        samples come no codes. Raises as `encode_blocks`.
        """
        return self._encode(map(checked_audio, rows_of(blocks)) for blocks in recordings)

    def _encode(self, recordings: Iterable[Iterable[Audio]]) -> Iterator[NDArray[Any]]:
        """`encode_stream` of blocks that were checked."""
        batches = ChunkBatches(self._encoder, self._run_encoder)
        begun: deque[_Encoding] = deque()
        samples = 0
        for blocks in recordings:
            begun.append(encoding := _Encoding())
            for chunk in cut(blocks, self.stride, self.chunk, self.speech.context):
                encoding.chunks.append(chunk)
                samples += len(chunk.data)
                batches.add(chunk, codes_in(len(chunk.data), self.stride))
                yield from self._encoded(begun, batches, samples)
            encoding.end = samples
            yield from self._encoded(begun, batches, samples)
        batches.run_all()
        yield from map(self._joined, begun)

    def _encoded(
        self, begun: "deque[_Encoding]", batches: ChunkBatches, samples: int
    ) -> Iterator[NDArray[Any]]:
        """The codes of the first of the recordings that were begun, but not of the last one.

        What waits for others of its length does so while no more than so many samples follow it:
        that bounds memory, and what is lost if a job stops.
        """
        while len(begun) > 1:
            first = begun[0]
            late = samples - first.end > self._encoder.held_samples
            while (waiting := first.unmade()) is not None:
                if not late and len(begun) <= self._encoder.held_items:
                    return
                batches.run_with(waiting)
            yield self._joined(begun.popleft())

    def _joined(self, encoding: "_Encoding") -> NDArray[Any]:
        """The codes (t,) of a recording."""
        made = [chunk.made for chunk in encoding.chunks if chunk.made is not None]
        return np.concatenate([np.zeros(0, codes_dtype(self.codebook_size)), *made])

    def decode(self, codes: Clips, speakers: Speakers, **how: Unpack[ClipOptions]) -> list[Audio]:
        """Audio (T,) of codes (t,), T = t·stride, in the voices of `speakers`.

        `speakers` has a name or a number for each clip (a place in `speakers`, whose count stands
        for none); or is one name for all, or None if the model knows no speakers. `samples` gives
        each clip's T, where that is less. `numbers` are the clips' own in the seed of a WaveNet
        decoder (default: 0, 1, 2, …). Raises `VqtrtError` for a code that is not in the codebook,
        or an unknown speaker.
        """
        out: list[Audio] = [np.zeros(0, np.float32)] * len(codes)
        for index, blocks in self.stream(codes, speakers, **how):
            out[index] = np.concatenate([np.zeros(0, np.float32), *blocks])
        return out

    def fingerprint(self) -> dict[str, Any]:
        """What decoded audio depends on, besides codes and speakers."""
        return self._decoder.fingerprint()

    def stream(
        self, codes: Clips, speakers: Speakers, done: Done = (), **how: Unpack[ClipOptions]
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """As `decode`, in flat memory: index after index, each with its audio block by block.

        The longest clips come first. A clip's blocks are to be taken before the next clip's.
        Batches whose clips are all in `done` are left out; the others are what they would be.
        """
        voices = numbered(speakers, self.speakers, len(codes))
        yield from self._decoder.stream(codes, voices, done=done, **how)

    def open_audio(self, path: str | Path) -> Audio:
        """A recording as float32 (T,), as `vqtrt encode` reads it for this model.

        Raises `AudioError` if it cannot be read, `ModuleNotFoundError` without the extra `speech`.
        """
        return read_audio(Path(path), self.preprocessing)

    def encode_files(
        self,
        paths: str | Path | Sequence[str | Path],
        out: str | Path,
        *,
        speaker_pattern: str | None = None,
        **options: Unpack[FileOptions],
    ) -> EncodeResult:
        """Encode folders and files to a codes file or a folder of shards, as `vqtrt encode`.

        Args:
            paths: What the command takes: folders of recordings, recordings; one or several.
            out: Codes file to write, .npy, with a .json; or a folder for shards.
            speaker_pattern: Regular expression with a group `speaker`, searched in file names.
            options: As `vqtrt.jobs.files.FileOptions`: `preprocessing`, `include`, `exclude`,
                `workers`, `on_error`, `resume`, `progress`; of shards `shard_size`, `format`,
                `turn`.

        Raises `VqtrtError` or `AudioError` as the command.
        """
        from vqtrt.audio.encode import encode_source
        from vqtrt.audio.source import open_recordings
        from vqtrt.formats.shards import indexes_of

        model, chosen_files = self.located(), selection(options)
        indexes = indexes_of(Path(out))
        source, chosen = open_files(
            paths,
            lambda path: open_recordings(model, path, speaker_pattern, chosen_files, indexes),
            options,
        )
        return encode_source(self, source, Path(out), **chosen)

    def _run_encoder(self, length: int, chunks: list[Chunk]) -> None:
        """Encode chunks of up to `length` codes; beyond the end of each there are zeros."""
        audio = self._encoder.filled(chunks, length, np.zeros(self.stride, np.float32))
        codes = self._encoder.run(audio).astype(codes_dtype(self.codebook_size))
        for row, chunk in enumerate(chunks):
            chunk.finish(codes[row, chunk.kept].copy())


class _Encoding:
    """A recording that is being encoded."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.end = 0
        """Samples up to its end, with all recordings before it."""

    def unmade(self) -> Chunk | None:
        """The first of its chunks that was not run yet."""
        return next((chunk for chunk in self.chunks if chunk.made is None), None)
