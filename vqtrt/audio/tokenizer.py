"""Recordings to codes and back, over any engine.

Notable: recordings go through in chunks (see `audio/chunks.py`), and those of several recordings
share a batch. Memory does not grow with a recording, and its codes are those of the whole. A call
keeps what it works on to itself, so any number of threads may use one tokenizer.
"""

import itertools
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.chunks import Chunk, ChunkBatches, cut, first_samples, spans
from vqtrt.audio.inputs import checked_audio, checked_lengths, rows_of
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.engines.base import Engine, Graph
from vqtrt.engines.opened import Opened
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import codes_in
from vqtrt.formats.bundle import ModelInfo, SpeechInfo
from vqtrt.formats.codes import codes_dtype

if TYPE_CHECKING:
    from vqtrt.audio.wavenet_decoder import WaveNetDecoder

Audio = NDArray[np.float32]
"""(samples,), mono, in [-1, 1]."""

CHUNK_SAMPLES = 1 << 17
"""Of a long recording, computed at once, without what is around them."""
CALL_SAMPLES = 1 << 20
"""Most in one call of a graph, padding included, whatever the batch size."""
_HELD = {False: 2, True: 8}
"""Calls' worth of samples that wait for others of their length, or are decoded together: more where
a batch costs the same if it is full."""


class AudioTokenizer:
    """A model of speech, ready to turn recordings into codes and codes into recordings.

    Graphs are opened when they are first needed. `batch_size` bounds how many recordings go through
    the engine at once; codes and audio of one do not depend on the others. `temperature` and `seed`
    are of a WaveNet decoder, which draws its samples. Threads may share a tokenizer; it can be
    pickled and used after a fork. Raises `VqtrtError` for a model of images.
    """

    def __init__(
        self, engine: Engine, *, batch_size: int = 16, temperature: float = 1.0, seed: int = 0
    ) -> None:
        if batch_size < 1:
            raise VqtrtError(f"batch size {batch_size}: must be at least 1")
        self.engine = engine
        self.batch_size = batch_size
        self.speech: SpeechInfo = require_speech(engine)
        self._graphs: Opened[str, Graph] = Opened()
        self._wavenet: WaveNetDecoder | None = None
        if self.speech.decoder == "wavenet":
            from vqtrt.audio import wavenet_decoder as wavenet_sampler

            self._wavenet = wavenet_sampler.WaveNetDecoder(
                engine, batch_size=batch_size, temperature=temperature, seed=seed
            )

    @property
    def facts(self) -> ModelInfo:
        """Codebook size and stride, which is samples a code."""
        return self.engine.facts

    @property
    def preprocessing(self) -> AudioPreprocessing:
        """How files are brought to what the model was trained on."""
        return self.speech.preprocessing

    @property
    def codebook_size(self) -> int:
        """K: codes are 0 to K − 1."""
        return self.facts.codebook_size

    @property
    def stride(self) -> int:
        """Samples that one code stands for."""
        return self.facts.stride

    @property
    def chunk(self) -> int:
        """Codes of a chunk to encode, with those around it that are cut off."""
        return chunk_codes(self.stride, self.speech.context)

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
        batches = ChunkBatches(self.chunk, self._rows, self._run_encoder)
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
            late = samples - first.end > self._held * CALL_SAMPLES
            while (waiting := first.unmade()) is not None:
                if not late and len(begun) <= 2 * self._held * self.batch_size:
                    return
                batches.run_with(waiting)
            yield self._joined(begun.popleft())

    def _joined(self, encoding: "_Encoding") -> NDArray[Any]:
        """The codes (t,) of a recording."""
        made = [chunk.made for chunk in encoding.chunks if chunk.made is not None]
        return np.concatenate([np.zeros(0, codes_dtype(self.codebook_size)), *made])

    def decode(
        self,
        codes: Sequence[NDArray[Any]],
        speakers: Sequence[int],
        samples: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Audio]:
        """Audio (T,) of codes (t,), T = t·stride; one speaker's number for each.

        Speakers are places in `speech.speakers`, whose count stands for none. `samples` gives each
        clip's T, where that is less. `numbers` are the clips' own in the seed of a WaveNet decoder
        (default: 0, 1, 2, …). Raises `VqtrtError` for a code that is not in the codebook, or an
        unknown speaker.
        """
        out: list[Audio] = [np.zeros(0, np.float32)] * len(codes)
        for index, blocks in self.stream(codes, speakers, samples, numbers):
            out[index] = np.concatenate([np.zeros(0, np.float32), *blocks])
        return out

    def fingerprint(self) -> dict[str, Any]:
        """What decoded audio depends on, besides codes and speakers."""
        if self._wavenet is not None:
            return self._wavenet.fingerprint()
        return {"weights_sha256": self.engine.weights_sha256, "precision": self.engine.precision}

    def stream(
        self,
        codes: Sequence[NDArray[Any]],
        speakers: Sequence[int],
        samples: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        done: Collection[int] = (),
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """As `decode`, in flat memory: index after index, each with its audio block by block.

        The longest clips come first. A clip's blocks are to be taken before the next clip's.
        Batches whose clips are all in `done` are left out; the others are what they would be.
        """
        if self._wavenet is not None:
            yield from self._wavenet.stream(codes, speakers, samples, numbers, done=done)
            return
        lengths = checked_lengths(codes, speakers, samples, self.facts, self.speech)
        for index, blocks in self._convolved(codes, speakers, frozenset(done)):
            yield index, first_samples(blocks, lengths[index])

    def _convolved(
        self, codes: Sequence[NDArray[Any]], speakers: Sequence[int], done: frozenset[int]
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """As `stream`, of whole codes that were checked, with a conv decoder."""
        for group in self._groups([len(clip) for clip in codes]):
            if done.issuperset(group):
                continue
            cut_up = [self._cut_codes(codes[index], speakers[index]) for index in group]
            if len(group) == 1:
                yield group[0], self._decode_one(cut_up[0])
                continue
            chunks = [list(each) for each in cut_up]
            self._decode_chunks(itertools.chain.from_iterable(chunks))
            for index, own in zip(group, chunks, strict=True):
                yield index, _audio_of(own)

    def _groups(self, counts: Sequence[int]) -> Iterator[list[int]]:
        """Clips of so many codes that are decoded together, the longest first.

        What is longer than a group may be is a group of its own, and given out as it is made.
        """
        group: list[int] = []
        held = 0
        for index in sorted(range(len(counts)), key=lambda i: -counts[i]):
            samples = counts[index] * self.stride
            if group and held + samples > self._held * CALL_SAMPLES:
                yield group
                group, held = [], 0
            group.append(index)
            held += samples
        if group:
            yield group

    def _cut_codes(self, codes: NDArray[Any], speaker: int) -> Iterator[Chunk]:
        for start, stop, kept in spans(len(codes), self._decoder_chunk, self._around):
            yield Chunk(codes[start:stop], kept, speaker)

    def _decode_one(self, chunks: Iterator[Chunk]) -> Iterator[Audio]:
        """A clip's audio, a batch of its chunks at a time."""
        while batch := list(itertools.islice(chunks, self._rows(self._decoder_chunk))):
            self._decode_chunks(batch)
            yield from _audio_of(batch)

    def _decode_chunks(self, chunks: Iterable[Chunk]) -> None:
        batches = ChunkBatches(self._decoder_chunk, self._rows, self._run_decoder)
        for chunk in chunks:
            batches.add(chunk, len(chunk.data))
        batches.run_all()

    @property
    def _around(self) -> int:
        """Codes on either side of a chunk to decode."""
        return self.speech.decoder_context

    @property
    def _decoder_chunk(self) -> int:
        """Codes of a chunk to decode, with those around it that are cut off."""
        return chunk_codes(self.stride, self._around)

    def _graph(self, name: str) -> Graph:
        """The engine's graph, opened once."""
        return self._graphs.get(name, partial(self.engine.open, name))

    @property
    def _held(self) -> int:
        return _HELD[self.engine.shape_specialized]

    def _rows(self, length: int) -> int:
        """How many chunks of `length` codes go through a graph at once."""
        # A CPU gains nothing by more, and the memory of a call grows with it.
        most = CALL_SAMPLES if self.engine.shape_specialized else CALL_SAMPLES // 2
        return max(1, min(self.batch_size, most // (length * self.stride)))

    def _run_encoder(self, length: int, chunks: list[Chunk]) -> None:
        """Encode chunks of up to `length` codes; beyond the end of each there are zeros."""
        audio = self._filled(chunks, length, np.zeros(self.stride, np.float32))
        codes = self._graph("encoder")(audio).astype(codes_dtype(self.codebook_size))
        for row, chunk in enumerate(chunks):
            chunk.finish(codes[row, chunk.kept].copy())

    def _run_decoder(self, length: int, chunks: list[Chunk]) -> None:
        """Decode chunks of up to `length` codes; beyond the end of each there is the code K."""
        codes = self._filled(chunks, length, np.array([self.codebook_size], np.int32))
        speakers = np.full(len(codes), len(self.speech.speakers), np.int32)
        speakers[: len(chunks)] = [chunk.speaker for chunk in chunks]
        audio, stride = self._graph("decoder")(codes, speakers), self.stride
        for row, chunk in enumerate(chunks):
            kept = audio[row, chunk.kept.start * stride : chunk.kept.stop * stride]
            chunk.finish(kept.copy())

    def _filled(self, chunks: list[Chunk], length: int, end: NDArray[Any]) -> NDArray[Any]:
        """Chunks as rows of `length` codes, filled up with `end`, which stands for one code.

        Where a new shape costs, empty rows make every batch of that length the same size.
        """
        rows = self._rows(length) if self.engine.shape_specialized else len(chunks)
        out = np.tile(end, (rows, length))
        for row, chunk in zip(out, chunks, strict=False):
            row[: len(chunk.data)] = chunk.data
        return out


class _Encoding:
    """A recording that is being encoded."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.end = 0
        """Samples up to its end, with all recordings before it."""

    def unmade(self) -> Chunk | None:
        """The first of its chunks that was not run yet."""
        return next((chunk for chunk in self.chunks if chunk.made is None), None)


def _audio_of(chunks: Iterable[Chunk]) -> Iterator[Audio]:
    """The audio that was made of chunks."""
    for chunk in chunks:
        if chunk.made is not None:
            yield chunk.made


def require_speech(engine: Engine) -> SpeechInfo:
    """An engine's facts of speech; `VqtrtError` for a model of images."""
    if engine.speech is None:
        raise VqtrtError(
            "the model is of images, and this needs one of audio: name another --model"
        )
    return engine.speech


def chunk_codes(stride: int, context: int) -> int:
    """Codes that a graph is run on at most: so many that what is computed twice is little."""
    return max(CHUNK_SAMPLES // stride, 8 * context, 1) + 2 * context
