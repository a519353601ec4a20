"""The conv decoder over any engine; chunks of several clips share a batch.

`wavenet_decoder.py` has the same methods for the other decoder.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.chunks import Audio, Chunk, ChunkBatches, ChunkGraph, first_samples, spans
from vqtrt.audio.inputs import ClipOptions, Clips, Done, checked_lengths, require_speech
from vqtrt.engines.base import Engine
from vqtrt.formats.bundle import ModelInfo, SpeechInfo


class ConvDecoder:
    """A model of audio that decodes with convolutions. Threads may share it."""

    def __init__(self, engine: Engine, *, batch_size: int = 16) -> None:
        self.engine, self.batch_size = engine, batch_size
        self.speech: SpeechInfo = require_speech(engine)
        self._decoder = ChunkGraph(engine, "decoder", batch_size, self.speech.decoder_context)

    @property
    def info(self) -> ModelInfo:
        """Codebook size and stride, which is samples per code."""
        return self.engine.info

    def fingerprint(self) -> dict[str, Any]:
        """What decoded audio depends on, besides codes and speakers."""
        return {"weights_sha256": self.engine.weights_sha256, "precision": self.engine.precision}

    def stream(
        self, codes: Clips, speakers: Sequence[int], done: Done = (), **how: Unpack[ClipOptions]
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """As `AudioTokenizer.stream`, with speakers by number; `numbers` has no meaning here."""
        samples = how.get("samples")
        lengths = checked_lengths(codes, speakers, samples, self.info, self.speech)
        for group in self._groups([len(clip) for clip in codes]):
            if set(done).issuperset(group):
                continue
            cut_up = [self._cut(codes[index], speakers[index]) for index in group]
            if len(group) == 1:
                made = [self._decode_one(cut_up[0])]
            else:
                chunks = [list(each) for each in cut_up]
                self._decode(itertools.chain.from_iterable(chunks))
                made = [_audio_of(own) for own in chunks]
            for index, blocks in zip(group, made, strict=True):
                yield index, first_samples(blocks, lengths[index])

    def _groups(self, counts: Sequence[int]) -> Iterator[list[int]]:
        """Clips of so many codes that are decoded together, the longest first.

        What is longer than a group may be is a group of its own, and given out as it is made.
        """
        group: list[int] = []
        held = 0
        for index in sorted(range(len(counts)), key=lambda i: -counts[i]):
            samples = counts[index] * self.info.stride
            if group and held + samples > self._decoder.held_samples:
                yield group
                group, held = [], 0
            group.append(index)
            held += samples
        if group:
            yield group

    def _cut(self, codes: NDArray[Any], speaker: int) -> Iterator[Chunk]:
        around = self.speech.decoder_context
        for start, stop, kept in spans(len(codes), self._decoder.chunk, around):
            yield Chunk(codes[start:stop], kept, speaker)

    def _decode_one(self, chunks: Iterator[Chunk]) -> Iterator[Audio]:
        """A clip's audio, a batch of its chunks at a time."""
        while batch := list(itertools.islice(chunks, self._decoder.rows(self._decoder.chunk))):
            self._decode(batch)
            yield from _audio_of(batch)

    def _decode(self, chunks: Iterable[Chunk]) -> None:
        batches = ChunkBatches(self._decoder, self._run)
        for chunk in chunks:
            batches.add(chunk, len(chunk.data))
        batches.run_all()

    def _run(self, length: int, chunks: list[Chunk]) -> None:
        """Decode chunks of up to `length` codes; beyond the end of each there is the code K."""
        end = np.array([self.info.codebook_size], np.int32)
        codes = self._decoder.filled(chunks, length, end)
        speakers = np.full(len(codes), len(self.speech.speakers), np.int32)
        speakers[: len(chunks)] = [chunk.speaker for chunk in chunks]
        audio, stride = self._decoder.run(codes, speakers), self.info.stride
        for row, chunk in enumerate(chunks):
            kept = audio[row, chunk.kept.start * stride : chunk.kept.stop * stride]
            chunk.finish(kept.copy())


def _audio_of(chunks: Iterable[Chunk]) -> Iterator[Audio]:
    """The audio that was made of chunks."""
    for chunk in chunks:
        if chunk.made is not None:
            yield chunk.made
