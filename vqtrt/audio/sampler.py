"""Drawing codes of speech from a WaveNet prior, one code of every clip at a time, over any engine.

As `images/sampler.py` for PixelCNN: the caches stay where the engine has them, and the noise is
keyed by (seed, sample, position), so that clip 17 of seed 0 is the same whatever the batch, the
number asked for, or the engine; and a longer clip begins with the codes of a shorter one.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.inputs import require_speech
from vqtrt.engines.base import Engine, StepLoop
from vqtrt.engines.noise import noise
from vqtrt.engines.opened import Opened
from vqtrt.engines.priors import find_prior
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import codes_in
from vqtrt.formats.bundle import PriorInfo, SpeechInfo
from vqtrt.formats.codes import codes_dtype
from vqtrt.formats.sampling import SamplingParams
from vqtrt.system.names import brief

_RUNS = 16
"""Codes of a clip that are drawn at once, where an engine can."""
_MOST_CODES = 1 << 24
"""Of a clip: days of speech, whose noise still fits into memory."""


@dataclass(frozen=True)
class ClipRequest:
    """Which clips to draw from which prior."""

    prior: str
    num: int
    seconds: float
    params: SamplingParams = field(default_factory=SamplingParams)
    speaker: str | None = None
    """Who speaks in all clips; None goes through the speakers in turn, where there are any."""


class ClipSamples(NamedTuple):
    """What was drawn."""

    codes: list[NDArray[Any]]
    """(t,) each; the smallest unsigned dtype."""
    speakers: list[str | None]
    """Whose each is, of `known_speakers`; None if there are none."""
    samples: int
    """Of audio, that each clip stands for."""


class BindSteps(Protocol):
    """`Engine.bind_steps`."""

    def __call__(self, graph: str, batch: int, *, runs: int, start: int) -> StepLoop:
        """A step graph, bound to draw."""


class ClipSampler:
    """A WaveNet prior, bound for a batch size. Threads that share one sampler take turns."""

    def __init__(self, bind: BindSteps, name: str, codebook_size: int, batch_size: int) -> None:
        self.codebook_size, self.batch_size = codebook_size, batch_size
        self._bind, self._name = bind, name
        self._steps: Opened[str, StepLoop] = Opened()

    def _step(self, params: SamplingParams) -> StepLoop:
        """The graph for the sampling parameters, which are written into it."""
        graph = f"priors/{self._name}/{params.step}"
        # Before the first code is none, which is what the code K stands for.
        how = {"runs": _RUNS, "start": self.codebook_size}
        step = self._steps.get(graph, partial(self._bind, graph, self.batch_size, **how))
        params.write(step.inputs, self.codebook_size)
        return step

    def sample(
        self,
        params: SamplingParams,
        samples: range,
        length: int,
        speakers: NDArray[np.int32] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> NDArray[Any]:
        """Codes (n, length) of the sample numbers `samples`, n at most the batch size.

        `speakers` (n,), where the prior is conditioned on them; `progress` is called for each code.
        """
        with self._steps.lock:
            return self._sample(self._step(params), params, samples, length, speakers, progress)

    def _sample(
        self,
        step: StepLoop,
        params: SamplingParams,
        samples: range,
        length: int,
        speakers: NDArray[np.int32] | None,
        progress: Callable[[], None],
    ) -> NDArray[Any]:
        count = len(samples)
        uniform = np.full((length, self.batch_size), 0.5, np.float32)
        uniform[:, :count] = noise(params.seed, samples, length).T
        if speakers is not None:
            step.inputs["speakers"][:] = 0
            step.inputs["speakers"][:count] = speakers
        chance, drawn = step.inputs["noise"], step.drawn
        out = np.empty((length, self.batch_size), codes_dtype(self.codebook_size))
        step.begin()
        for start in range(0, length, step.runs):
            end = min(start + step.runs, length)
            chance[: end - start, :, 0] = uniform[start:end]
            step.draw(end - start)
            out[start:end] = drawn[: end - start, :, 0]
            for _ in range(start, end):
                progress()
        return np.ascontiguousarray(out[:, :count].T)


def sample_clips(
    engine: Engine,
    request: ClipRequest,
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ClipSamples:
    """Draw clips 0 to num − 1 of a seed.

    `progress` is called with (steps done, steps in all). Raises `VqtrtError` for a request that
    the prior cannot meet.
    """
    info, speech = find_clip_prior(engine, request.prior)
    request.params.check(info.codebook_size)
    samples, length = _length(request, speech.preprocessing.sample_rate, engine.info.stride)
    names = _speakers(request, known_speakers(info, speech))
    labels = None
    if info.classes:
        labels = np.array(
            [info.classes.index(name) for name in names if name is not None], np.int32
        )
    batch_size = min(batch_size, request.num)
    largest = engine.largest_batch(f"priors/{request.prior}/step", {})
    batch_size = min(batch_size, largest or batch_size)
    # A step is too small to be shared by cores.
    bind = partial(engine.bind_steps, threads=1)
    sampler = ClipSampler(bind, request.prior, info.codebook_size, batch_size)
    starts = range(0, request.num, batch_size)
    done = itertools.count(1)
    codes: list[NDArray[Any]] = []
    for start in starts:
        numbers = range(start, min(start + batch_size, request.num))
        drawn = sampler.sample(
            request.params,
            numbers,
            length,
            None if labels is None else labels[numbers.start : numbers.stop],
            lambda: progress(next(done), len(starts) * length),
        )
        codes.extend(drawn)
    return ClipSamples(codes, names, samples)


def find_clip_prior(engine: Engine, name: str) -> tuple[PriorInfo, SpeechInfo]:
    """As `find_prior`, with the model's info; also raises `VqtrtError` for a model of images."""
    speech = require_speech(engine)
    return find_prior(engine, name), speech


def known_speakers(prior: PriorInfo, speech: SpeechInfo) -> tuple[str, ...]:
    """The prior's speakers, or where it has none the decoder's: clips are still in some voice."""
    return prior.classes or speech.speakers


def _speakers(request: ClipRequest, known: tuple[str, ...]) -> list[str | None]:
    """Whose each clip is."""
    if request.speaker is None:
        return [known[i % len(known)] if known else None for i in range(request.num)]
    if request.speaker not in known:
        raise VqtrtError(
            f"speaker {brief(request.speaker)}: unknown to the prior {request.prior!r}; "
            f"it knows {', '.join(known) or 'none'}"
        )
    return [request.speaker] * request.num


def _length(request: ClipRequest, rate: int, stride: int) -> tuple[int, int]:
    """Samples of audio, and codes, of each clip."""
    if request.num < 1:
        raise VqtrtError(f"num {request.num}: must be at least 1")
    if not (request.seconds > 0 and math.isfinite(request.seconds)):
        raise VqtrtError(f"seconds {request.seconds}: must be above 0")
    samples = max(1, round(request.seconds * rate))
    length = codes_in(samples, stride)
    if length > _MOST_CODES:
        raise VqtrtError(
            f"seconds {request.seconds}: clips of at most {_MOST_CODES * stride / rate:,.0f} "
            "seconds can be drawn"
        )
    return samples, length
