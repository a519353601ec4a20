"""Recordings to codes and back, over any engine.

Notable: what is longer than a chunk goes through in chunks of one shape, each with as many codes
more on either side as the graph looks at, which are then cut off: memory does not grow with the
recording, and the codes are those of the whole. Shorter ones go through in batches of like length.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from vqtrt.bundle import ModelFacts, SpeechFacts
from vqtrt.data.audio import AudioPreprocessing
from vqtrt.data.clip_codes import codes_in
from vqtrt.data.codes import codes_dtype, first_bad
from vqtrt.engines import BoundGraph, Engine, Graph
from vqtrt.errors import VqtrtError
from vqtrt.length_batches import length_batches

if TYPE_CHECKING:
    from vqtrt.wavenet_sampler import WaveNetDecoder

Audio = NDArray[np.float32]
"""(samples,), mono, in [-1, 1]."""

CHUNK_SAMPLES = 1 << 17
"""Of a long recording, computed at once, without what is around them."""
CALL_SAMPLES = 1 << 20
"""Most in one call of a graph, padding included, whatever the batch size."""


class SpeechTokenizer:
    """A model of speech, ready to turn recordings into codes and codes into recordings.

    Graphs are opened when they are first needed. `batch_size` bounds how many recordings go through
    the engine at once; codes and audio of one do not depend on the others. `temperature` and `seed`
    are of a WaveNet decoder, which draws its samples. Raises `VqtrtError` for a model of images.
    """

    def __init__(
        self, engine: Engine, *, batch_size: int = 16, temperature: float = 1.0, seed: int = 0
    ) -> None:
        if batch_size < 1:
            raise VqtrtError(f"batch size {batch_size}: must be at least 1")
        self.engine = engine
        self.batch_size = batch_size
        self.speech: SpeechFacts = require_speech(engine)
        self._encoder: Graph | None = None
        self._decoder: tuple[tuple[int, int], BoundGraph] | None = None
        self._wavenet: WaveNetDecoder | None = None
        if self.speech.decoder == "wavenet":
            from vqtrt import wavenet_sampler

            self._wavenet = wavenet_sampler.WaveNetDecoder(
                engine, batch_size=batch_size, temperature=temperature, seed=seed
            )

    @property
    def facts(self) -> ModelFacts:
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

        The end of each is filled up with zeros to a whole code. Codes have the smallest unsigned
        dtype that holds them. Raises `VqtrtError` for what is no float, has no samples, or not
        finite ones.
        """
        if isinstance(audio, np.ndarray) and audio.ndim == 1:
            return self.encode([audio])[0]
        clips = [_checked(clip) for clip in audio]
        if not all(len(clip) for clip in clips):
            raise VqtrtError("audio of 0 samples: there is nothing to encode; leave it out")
        counts = [codes_in(len(clip), self.stride) for clip in clips]
        out: list[NDArray[Any]] = [np.empty(0)] * len(clips)
        for index in [i for i, count in enumerate(counts) if count > self.chunk]:
            out[index] = self.encode_blocks(iter([clips[index]]))
        short = [i for i, count in enumerate(counts) if count <= self.chunk]
        for batch in self._batches([counts[i] for i in short]):
            indices = [short[i] for i in batch]
            longest = counts[indices[0]] * self.stride
            padded = np.zeros((len(batch), longest), np.float32)
            for row, index in enumerate(indices):
                padded[row, : len(clips[index])] = clips[index]
            for index, codes in zip(indices, self._run_encoder(padded), strict=True):
                out[index] = codes[: counts[index]]
        return out

    def encode_blocks(self, blocks: Iterable[NDArray[np.floating[Any]]]) -> NDArray[Any]:
        """Codes (t,) of one recording of any length, given in consecutive blocks (n,).

        The codes are those of the whole. Raises `VqtrtError` as `encode`, and what `blocks` raises.
        """
        parts, stride = list[NDArray[Any]](), self.stride
        around, size = self.speech.context, self.chunk * stride
        overlap = 2 * around * stride
        buffer = np.zeros((1, size), np.float32)
        filled = skip = 0
        for block in blocks:
            rest = _checked(block)
            while len(rest):
                if filled == size:
                    # More follows: the last codes do not know it yet, and are made once more.
                    parts.append(self._run_encoder(buffer)[0, skip : self.chunk - around])
                    buffer[:, :overlap] = buffer[:, size - overlap :]
                    filled, skip = overlap, around
                taken = min(len(rest), size - filled)
                buffer[0, filled : filled + taken] = rest[:taken]
                filled, rest = filled + taken, rest[taken:]
        if not filled:
            raise VqtrtError("audio of 0 samples: there is nothing to encode; leave it out")
        buffer[0, filled:] = 0
        parts.append(self._run_encoder(buffer)[0, skip : codes_in(filled, stride)])
        return np.concatenate(parts)

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

    def stream(
        self,
        codes: Sequence[NDArray[Any]],
        speakers: Sequence[int],
        samples: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """As `decode`, in flat memory: index after index, each with its audio block by block.

        The longest clips come first. A clip's blocks are to be taken before the next clip's.
        """
        if self._wavenet is not None:
            yield from self._wavenet.stream(codes, speakers, samples, numbers)
            return
        for index, blocks in self._convolved(codes, speakers):
            yield index, (blocks if samples is None else first_samples(blocks, samples[index]))

    def _convolved(
        self, codes: Sequence[NDArray[Any]], speakers: Sequence[int]
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """As `stream`, of whole codes, with a conv decoder."""
        if len(codes) != len(speakers):
            raise ValueError(f"{len(codes)} clips and {len(speakers)} speakers")
        for index, (clip, speaker) in enumerate(zip(codes, speakers, strict=True)):
            check_clip(index, clip, speaker, self.facts, self.speech)
        counts = [len(clip) for clip in codes]
        chunk = chunk_codes(self.stride, self.speech.decoder_context)
        long = sorted((i for i, n in enumerate(counts) if n > chunk), key=lambda i: -counts[i])
        for index in long:
            yield index, self._decode_long(codes[index], speakers[index], chunk)
        short = [i for i, count in enumerate(counts) if count <= chunk]
        for batch in self._batches([counts[i] for i in short]):
            indices = [short[i] for i in batch]
            longest = counts[indices[0]]
            if not longest:
                audio = np.zeros((len(batch), 0), np.float32)
            else:
                padded = np.full((len(batch), longest), self.codebook_size, np.int32)
                for row, index in enumerate(indices):
                    padded[row, : counts[index]] = codes[index]
                audio = self._run_decoder(padded, [speakers[i] for i in indices])
            for row, index in enumerate(indices):
                yield index, iter([audio[row, : counts[index] * self.stride].copy()])

    def _decode_long(self, codes: NDArray[Any], speaker: int, chunk: int) -> Iterator[Audio]:
        around, stride = self.speech.decoder_context, self.stride
        start = skip = 0
        while True:
            part = codes[start : start + chunk]
            padded = np.full((1, chunk), self.codebook_size, np.int32)
            padded[0, : len(part)] = part
            last = start + chunk >= len(codes)
            stop = len(part) if last else chunk - around
            yield self._run_decoder(padded, [speaker])[0, skip * stride : stop * stride].copy()
            if last:
                return
            start, skip = start + chunk - 2 * around, around

    def _batches(self, counts: list[int]) -> list[list[int]]:
        return length_batches(counts, self.batch_size, most=CALL_SAMPLES // self.stride)

    def _run_encoder(self, audio: Audio) -> NDArray[Any]:
        """Codes (n, t) of audio (n, stride·t)."""
        if self._encoder is None:
            self._encoder = self.engine.open("encoder")
        codes: NDArray[Any] = self._encoder(audio).astype(codes_dtype(self.codebook_size))
        return codes

    def _run_decoder(self, codes: NDArray[np.int32], speakers: Sequence[int]) -> Audio:
        """Audio (n, stride·t) of codes (n, t), in a buffer that the next call writes to."""
        batch, t = codes.shape
        if self._decoder is None or self._decoder[0] != codes.shape:
            # Let go of the old buffers before there are new ones.
            self._decoder = None
            graph = self.engine.bind("decoder", {"batch": batch, "t": t})
            self._decoder = (batch, t), graph
        graph = self._decoder[1]
        graph.inputs["codes"][:] = codes
        graph.inputs["speakers"][:] = speakers
        graph.run()
        return graph.outputs["audio"]


def require_speech(engine: Engine) -> SpeechFacts:
    """An engine's facts of speech; `VqtrtError` for a model of images."""
    if engine.speech is None:
        raise VqtrtError("a model of images, where one of speech is wanted; give another model")
    return engine.speech


def check_clip(
    index: int, codes: NDArray[Any], speaker: int, facts: ModelFacts, speech: SpeechFacts
) -> None:
    """Raise `VqtrtError` for codes that are not (t,) and in the codebook, or an unknown speaker."""
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise VqtrtError(f"clip {index}: codes are integers (t,), not {codes.dtype} {codes.shape}")
    if bad := first_bad(codes, facts.codebook_size):
        (place, *_), value, reason = bad
        raise VqtrtError(f"clip {index} holds {value} at {place}, but {reason}")
    if not 0 <= speaker <= len(speech.speakers):
        raise VqtrtError(
            f"clip {index}: speaker {speaker}, but the model has {len(speech.speakers)} "
            "(their count stands for none)"
        )


def first_samples(blocks: Iterator[Audio], count: int) -> Iterator[Audio]:
    """The first `count` samples of some blocks."""
    for block in blocks:
        if not count:
            return
        yield block[:count]
        count -= min(count, len(block))


def chunk_codes(stride: int, context: int) -> int:
    """Codes that a graph is run on at most: so many that what is computed twice is little."""
    return max(CHUNK_SAMPLES // stride, 8 * context, 1) + 2 * context


def _checked(audio: NDArray[np.floating[Any]]) -> Audio:
    """One recording, or a part of one, as float32."""
    audio = np.asarray(audio)
    if audio.ndim != 1 or audio.dtype.kind != "f":
        raise VqtrtError(
            f"audio must be float32 of shape (samples,) in [-1, 1], not {audio.dtype} {audio.shape}"
        )
    if not np.isfinite(audio).all():
        raise VqtrtError("audio holds samples that are no numbers (NaN or infinite)")
    return audio.astype(np.float32, copy=False)
