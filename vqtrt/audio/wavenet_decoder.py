"""Codes to audio with a WaveNet decoder, a few samples of every clip at a time, over any engine.

As in `images/sampler.py` for PixelCNN, the caches stay where the engine has them, and the noise is
an input, keyed by (seed, clip number, position), so that a clip sounds the same in any batch. Clips
of similar length share a batch; batches go through as many streams as the engine has, each on one
core. Memory holds a chunk of conditioning and one byte per sample.

Notable: the conditioning is computed clip by clip in chunks of one shape, because a runtime's
rounding may depend on shapes. That of a step does not depend on the batch in ONNX Runtime, whose
products take their rows one by one. So batches are filled up to a few sizes, and graphs are bound
once for each of them: binding takes longer than a short clip, and on a GPU it may compile.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.chunks import Audio
from vqtrt.audio.inputs import ClipOptions, Clips, Done, checked_lengths, require_speech
from vqtrt.data.audio.mulaw import LEVELS, mulaw_decode
from vqtrt.engines.base import BoundGraph, Engine, StepLoop
from vqtrt.engines.lengths import length_batches, padded_batch
from vqtrt.engines.noise import NoiseStream
from vqtrt.engines.opened import Opened
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import ModelInfo, SpeechInfo
from vqtrt.formats.sampling import SamplingParams
from vqtrt.jobs.loop import ignore

_STREAM_BATCH = 4
"""Clips that a stream has at least: with fewer, a step is mostly what it costs to start one."""
_FRAMES = 64
"""Of conditioning, that are computed at once."""
_DECODERS = 1 << 63
"""Added to a clip's number, so that its audio is not drawn with the noise that drew its codes."""
_BLOCK = 1 << 16
_TICK = 0.1  # seconds between two looks at how far the streams are

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Clip:
    """What is asked for."""

    codes: NDArray[Any]
    speaker: int
    number: int
    samples: int


class WaveNetDecoder:
    """A model of speech whose decoder is a WaveNet, ready to turn codes into audio.

    `batch_size` bounds how many clips are drawn at once; the audio of one does not depend on the
    others. `temperature` divides the logits; 0 takes the most likely level. Threads may share a
    decoder: their batches take turns in its streams. Raises `VqtrtError` for another model, and for
    values out of range.
    """

    def __init__(
        self, engine: Engine, *, batch_size: int = 16, temperature: float = 1.0, seed: int = 0
    ) -> None:
        if batch_size < 1:
            raise VqtrtError(f"batch size {batch_size}: must be at least 1")
        self.speech: SpeechInfo = require_speech(engine)
        if self.speech.decoder != "wavenet":
            raise VqtrtError("this model decodes with convolutions, not with a WaveNet")
        SamplingParams(temperature=temperature, seed=seed).check(LEVELS)
        self.engine = engine
        self.batch_size = min(batch_size, engine.largest_batch("step", {}) or batch_size)
        self.temperature, self.seed = temperature, seed
        self._opened: Opened[str, _Streams] = Opened()

    @property
    def info(self) -> ModelInfo:
        """Codebook size and stride, which is samples per code."""
        return self.engine.info

    def fingerprint(self) -> dict[str, Any]:
        """What decoded audio depends on, besides codes and speakers."""
        return {
            "weights_sha256": self.engine.weights_sha256,
            "precision": self.engine.precision,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    def decode(
        self,
        codes: Clips,
        speakers: Sequence[int],
        progress: Progress = ignore,
        **how: Unpack[ClipOptions],
    ) -> list[Audio]:
        """Audio (T,) of codes (t,), T = t·stride; one speaker's number for each.

        Speakers are places in `speech.speakers`, whose count stands for none. `progress` is called
        with (samples drawn, samples in all). Raises `VqtrtError` for a code that is not in the
        codebook, or an unknown speaker.
        """
        out: list[Audio] = [np.zeros(0, np.float32)] * len(codes)
        for index, blocks in self.stream(codes, speakers, progress=progress, **how):
            out[index] = np.concatenate([np.zeros(0, np.float32), *blocks])
        return out

    def stream(
        self,
        codes: Clips,
        speakers: Sequence[int],
        done: Done = (),
        progress: Progress = ignore,
        **how: Unpack[ClipOptions],
    ) -> Generator[tuple[int, Iterator[Audio]]]:
        """As `decode`: index after index as they are done, each with its audio in blocks.

        Batches whose clips are all in `done` are left out; the others are what they would be.
        """
        clips = self._clips(codes, speakers, how.get("samples"), how.get("numbers"))
        steps = [-(-clip.samples // self.speech.unroll) for clip in clips]
        streams = self._opened.get("streams", partial(_Streams, self, self._opened.lock))
        # A step is too small to be shared by cores, but clips do not depend on each other.
        fair = max(_STREAM_BATCH, -(-len(clips) // streams.count))
        batches = length_batches(steps, min(fair, streams.batch))
        batches = [batch for batch in batches if not set(batch).issubset(done)]
        meter = _Meter(sum(clip.samples for clip in clips), progress)

        def draw(indices: list[int]) -> list[NDArray[np.uint8]]:
            with streams.one() as stream:
                return stream.draw([clips[i] for i in indices], meter)

        with ThreadPoolExecutor(streams.count) as pool:
            running: dict[Future[list[NDArray[np.uint8]]], list[int]] = {}
            try:
                for batch in batches:
                    running[pool.submit(draw, batch)] = batch
                    if len(running) == streams.count:
                        yield from self._done(running, meter)
                while running:
                    yield from self._done(running, meter)
            finally:
                meter.stop.set()

    def _done(
        self, running: "dict[Future[list[NDArray[np.uint8]]], list[int]]", meter: "_Meter"
    ) -> Iterator[tuple[int, Iterator[Audio]]]:
        """What the batches that end next have drawn."""
        ended: set[Future[list[NDArray[np.uint8]]]] = set()
        while not ended:
            ended, _ = wait(running, _TICK, FIRST_COMPLETED)
            meter.tell()
        for future in ended:
            for index, levels in zip(running.pop(future), future.result(), strict=True):
                starts = range(0, len(levels), _BLOCK)
                yield index, (mulaw_decode(levels[start : start + _BLOCK]) for start in starts)

    def _clips(
        self,
        codes: Sequence[NDArray[Any]],
        speakers: Sequence[int],
        samples: Sequence[int] | None,
        numbers: Sequence[int] | None,
    ) -> list[_Clip]:
        lengths = checked_lengths(codes, speakers, samples, self.info, self.speech)
        numbers = range(len(codes)) if numbers is None else numbers
        if len(numbers) != len(codes):
            raise ValueError(f"{len(codes)} clips and {len(numbers)} numbers")
        return [_Clip(*each) for each in zip(codes, speakers, numbers, lengths, strict=True)]


def decoder_stream(seed: int, number: int) -> NoiseStream:
    """The noise that a clip's samples are drawn with."""
    return NoiseStream(seed, number + _DECODERS)


def decoder_noise(seed: int, numbers: range, count: int) -> NDArray[np.float32]:
    """The first of it for some clips: (n, count)."""
    return np.stack([decoder_stream(seed, number).take(count) for number in numbers])


class _Meter:
    """How many samples all streams have drawn, and whether they are to stop."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.stop = threading.Event()
        self._total, self._progress = total, progress
        self._done, self._told = 0, 0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise `CancelledError` if nobody wants more."""
        if self.stop.is_set():
            raise CancelledError

    def add(self, samples: int) -> None:
        """Count samples."""
        with self._lock:
            self._done += samples

    def tell(self) -> None:
        """Call `progress`, in the thread of whoever asked for the audio."""
        if self._done != self._told:
            self._told = self._done
            self._progress(self._told, self._total)


class _Streams:
    """The streams of a decoder: each batch of any call draws in the next that is free."""

    def __init__(self, decoder: WaveNetDecoder, binding: "threading.RLock") -> None:
        self.count = max(1, decoder.engine.num_streams)
        self.batch = -(-decoder.batch_size // self.count)
        """The most clips of a stream."""
        self._free: SimpleQueue[_Stream] = SimpleQueue()
        for _ in range(self.count):
            self._free.put(_Stream(decoder, self.batch, binding))

    @contextmanager
    def one(self) -> "Iterator[_Stream]":
        """A stream that nobody else uses meanwhile; waits for it."""
        stream = self._free.get()
        try:
            yield stream
        finally:
            self._free.put(stream)


class _Stream:
    """Bound graphs that draw one batch at a time, on one core.

    Graphs are bound for few batches: for each of `padded_batch`, or if the engine prepares kernels
    for each shape, for the largest alone.
    """

    def __init__(self, decoder: WaveNetDecoder, batch: int, binding: "threading.RLock") -> None:
        speech, info = decoder.speech, decoder.info
        self._engine, self._binding = decoder.engine, binding
        self._batch = batch
        self._temperature, self._seed = decoder.temperature, decoder.seed
        self._nothing, self._around = info.codebook_size, speech.decoder_context
        self._hop, self._unroll = speech.hop, speech.unroll
        self._a_code = info.stride // speech.hop
        self._chunk = max(1, _FRAMES // self._a_code)
        """Codes whose frames are computed at once."""
        self._conditioning: BoundGraph | None = None
        self._steps: dict[int, StepLoop] = {}

    def draw(self, clips: Sequence[_Clip], meter: _Meter) -> list[NDArray[np.uint8]]:
        """Levels (T,) of clips, the longest of which is the first."""
        unroll = self._unroll
        whole = self._engine.shape_specialized
        rows = self._batch if whole else padded_batch(len(clips), self._batch)
        conditioning, step = self._bound(rows)
        streams = [decoder_stream(self._seed, clip.number) for clip in clips]
        out = [np.empty(clip.samples, np.uint8) for clip in clips]
        runs = self._chunk * self._a_code * self._hop // unroll
        span = runs * unroll
        # Rows beyond the clips are drawn, and not looked at.
        biases = np.zeros((span // self._hop, *step.inputs["bias"].shape), np.float32)
        uniform = np.full((runs, rows, unroll), 0.5, np.float32)
        levels = np.zeros((runs, rows, unroll), np.uint8)
        SamplingParams(temperature=self._temperature).write(step.inputs, LEVELS)
        step.begin()
        for start in range(0, max(clip.samples for clip in clips), span):
            wanted = [min(max(clip.samples - start, 0), span) for clip in clips]
            for row, clip in enumerate(clips):
                if wanted[row]:
                    first = start // (self._a_code * self._hop)
                    biases[:, row] = self._frames(conditioning, clip, first)
                    uniform[:, row] = streams[row].take(span).reshape(runs, unroll)
            self._run(step, biases, uniform, levels[: -(-max(wanted) // unroll)], meter)
            for row, count in enumerate(wanted):
                drawn = levels[: -(-count // unroll), row].reshape(-1)
                out[row][start : start + count] = drawn[:count]
            meter.add(sum(wanted))
        return out

    def _run(
        self,
        step: StepLoop,
        biases: NDArray[np.float32],
        uniform: NDArray[np.float32],
        levels: NDArray[np.uint8],
        meter: _Meter,
    ) -> None:
        """Draw `levels` (runs, N, unroll), with `uniform` alike and `biases` (frames, N, L·2p)."""
        bias, noise, drawn = step.inputs["bias"], step.inputs["noise"], step.drawn
        a_frame = self._hop // self._unroll
        for first in range(0, len(levels), step.runs):
            if first % a_frame == 0:
                meter.check()
                bias[:] = biases[first // a_frame]
            runs = min(step.runs, len(levels) - first)
            noise[:runs] = uniform[first : first + runs]
            step.draw(runs)
            levels[first : first + runs] = drawn[:runs]

    def _frames(self, graph: BoundGraph, clip: _Clip, first: int) -> NDArray[np.float32]:
        """The biases (frames, L·2p) of a chunk of codes that begins with the code `first`."""
        codes, around = graph.inputs["codes"], self._around
        begin, end = first - around, first + self._chunk + around
        codes[:] = self._nothing
        known = clip.codes[max(begin, 0) : end]
        codes[0, max(-begin, 0) :][: len(known)] = known
        graph.inputs["speakers"][:] = clip.speaker
        graph.run()
        cut = around * self._a_code
        frames: NDArray[np.float32] = graph.outputs["bias"][cut : cut + self._chunk * self._a_code]
        return frames[:, 0]

    def _bound(self, rows: int) -> tuple[BoundGraph, StepLoop]:
        with self._binding:
            if self._conditioning is None:
                sizes = {"batch": 1, "t": self._chunk + 2 * self._around}
                self._conditioning = self._engine.bind("conditioning", sizes, threads=1)
            if rows not in self._steps:
                runs = self._hop // self._unroll
                self._steps[rows] = self._engine.bind_steps(
                    "step", rows, runs=runs, start=LEVELS, threads=1
                )
            return self._conditioning, self._steps[rows]
