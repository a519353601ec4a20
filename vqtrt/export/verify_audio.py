"""Does a model of speech on an engine do what torch does? As `verify.py`, on recordings.

As for images, codes have to be those of torch in float64, beyond a margin. They must not depend on
what else is in the batch, or on how a recording is cut into chunks. A conv decoder's samples are
those of torch; a WaveNet's cached steps have the logits of its full form.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.decode import Audio
from vqtrt.data.audio.open import open_speech
from vqtrt.engines.base import Engine
from vqtrt.engines.choose import open_engine
from vqtrt.engines.noise import noise
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.export.code_agreement import CodeAgreement
from vqtrt.export.verify import check_weights
from vqtrt.formats.sampling import SamplingParams
from vqtrt.models.audio import LEVELS, SpeechVQVAE, WaveNetDecoder
from vqtrt.models.audio_graphs import ConditioningGraph, ConvDecoderGraph
from vqtrt.models.runs import AudioRun
from vqtrt.training.loader import split_items

STEPS = 4096
"""Samples over which a WaveNet's steps are compared."""
LOGITS = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.4}
"""Largest difference of a logit that is taken for rounding."""
SAMPLES = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1}
"""The same of a sample of a conv decoder."""
_BATCH_SIZES = (2, 7)
_BLOCK = 256
"""Codes whose vectors are computed at once, if some of them differ."""
_SHOWN = 8
"""Clips that are decoded."""


def verify_speech(
    model: ModelLocation,
    clips: Iterable[Audio],
    *,
    options: EngineOptions = AUTO,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Compare an engine with torch on clips (T,), float32 at the model's rate.

    Keys as `verify` has them, and `chunk_invariance`, the share of codes that are the same if the
    clips, put together, are encoded in chunks, with the two measures of those that are not;
    `decoder_max_abs_diff` (conv: samples) or `logits_max_abs_diff` (WaveNet); `clips`. Raises
    `VqtrtError` if the run's weights are not those of the bundle.
    """
    if model.run is None:
        raise VqtrtError(
            f"{model.path}: verify compares with the weights that were exported: pass the run "
            "(a bundle in RUN/bundle finds its run by itself)"
        )
    if options.engine != "torch":
        check_weights(model, model.open_bundle())
    reference = AudioRun.open(model.run).load_model()
    opened = open_engine(model, options)
    tested = AudioTokenizer(opened, batch_size=max(_BATCH_SIZES))
    comparison = _Comparison(reference, options.precision, tested.speech.context)
    agreement, batches, chunks = (comparison.counts() for _ in range(3))
    heard: list[Audio] = []
    alone: list[NDArray[Any]] = []
    for clip in clips:
        expected, got = comparison.expected(clip), tested.encode(clip)
        comparison.judge(agreement, clip, expected, got)
        heard.append(clip)
        alone.append(got)
        progress(len(heard))
    if not heard:
        raise VqtrtError("verify needs at least one recording")
    for clip, one, other in zip(
        heard * len(_BATCH_SIZES),
        alone * len(_BATCH_SIZES),
        _in_batches(opened, heard),
        strict=True,
    ):
        comparison.judge(batches, clip, one, other)
    long = np.concatenate(heard)
    pieces = (long[start : start + 9973] for start in range(0, len(long), 9973))
    whole = opened.open("encoder")(np.pad(long, (0, -len(long) % tested.stride))[None])[0]
    comparison.judge(chunks, long, whole, tested.encode_blocks(pieces))
    if isinstance(reference.decoder, WaveNetDecoder):
        name, bound = "logits_max_abs_diff", LOGITS[options.precision]
        difference = _logits(opened, reference, alone)
    else:
        name, bound = "decoder_max_abs_diff", SAMPLES[options.precision]
        difference = _samples(tested, reference, alone)
    return agreement.figures() | {
        name: difference,
        **batches.invariance("batch"),
        **chunks.invariance("chunk"),
        "clips": len(heard),
        "precision": options.precision,
        "engine": opened.name,
        "passed": agreement.good and batches.good and chunks.good and difference <= bound,
    }


class _Comparison:
    """What the codes of clips are judged by: the encoder and the codebook in float64."""

    def __init__(self, model: SpeechVQVAE, precision: str, context: int) -> None:
        self._rounding_encoder = model.encoder
        self._encoder = copy.deepcopy(model.encoder).double()
        self._codebook, self._precision = model.quantizer.entries().double(), precision
        self._stride, self._context = model.encoder.stride, context

    def counts(self) -> CodeAgreement:
        """Of nothing yet."""
        return CodeAgreement(self._codebook, self._precision)

    def expected(self, clip: Audio) -> NDArray[np.int64]:
        """The codes (t,) of a clip (T,) by definition, argmin |z − e|."""
        codes: NDArray[np.int64] = self.counts().expected(self._vectors(clip)).numpy()[:, 0]
        return codes

    def judge(
        self, counts: CodeAgreement, clip: Audio, one: NDArray[Any], other: NDArray[Any]
    ) -> None:
        """Count codes (t,) of a clip (T,), and measure those that differ.

        Only what they see of the clip goes through the encoder: it may be long.
        """
        counts.add(len(one))
        for block in np.unique(np.flatnonzero(one != other) // _BLOCK):
            some = slice(block * _BLOCK, min((block + 1) * _BLOCK, len(one)))
            begin = (some.start - self._context) * self._stride
            end = (some.stop + self._context) * self._stride
            seen = clip[max(begin, 0) : end]
            before = max(-begin, 0)
            seen = np.pad(seen, (before, end - begin - before - len(seen)))
            exact, rounded = (
                self._vectors(seen, dtype)[self._context :][: some.stop - some.start]
                for dtype in (torch.float64, torch.float32)
            )
            counts.add_mismatches(exact, one[some], other[some], rounded)

    def _vectors(self, clip: Audio, dtype: torch.dtype = torch.float64) -> Tensor:
        """What is quantized, in float64, or as torch rounds it in float32: (t, 1, D)."""
        padded = np.pad(clip, (0, -len(clip) % self._stride))
        encoder = self._encoder if dtype == torch.float64 else self._rounding_encoder
        with torch.inference_mode():
            z: Tensor = encoder(torch.from_numpy(padded)[None].to(dtype))
        return z[0].T[:, None]


def _in_batches(engine: Engine, clips: Sequence[Audio]) -> Iterator[NDArray[Any]]:
    """The codes of clips, with each of the batch sizes."""
    for size in _BATCH_SIZES:
        tokenizer = AudioTokenizer(engine, batch_size=size)
        yield from tokenizer.encode(list(clips))


def _samples(tested: AudioTokenizer, model: SpeechVQVAE, codes: list[NDArray[Any]]) -> float:
    """The largest difference of a conv decoder's samples."""
    shown = codes[:_SHOWN]
    speakers = [row % (len(tested.speech.speakers) + 1) for row in range(len(shown))]
    graph, differences = ConvDecoderGraph(model), []
    for clip, speaker, made in zip(shown, speakers, tested.decode(shown, speakers), strict=True):
        given = torch.from_numpy(clip.astype(np.int32))[None]
        with torch.inference_mode():
            expected = graph(given, torch.tensor([speaker], dtype=torch.int32))[0].numpy()
        differences.append(float(np.abs(made - expected).max()))
    return max(differences)


def _logits(engine: Engine, model: SpeechVQVAE, codes: list[NDArray[Any]]) -> float:
    """The largest difference of a logit of the engine's steps from the full form's, in torch.

    Over `STEPS` samples of two clips, drawn by the engine itself.
    """
    decoder, speech = model.decoder, engine.speech
    assert isinstance(decoder, WaveNetDecoder)  # noqa: S101 - the caller asked
    assert speech is not None  # noqa: S101 - for mypy: as the model
    stride, hop, unroll = model.encoder.stride, speech.hop, speech.unroll
    count = -(-STEPS // stride)
    given = np.resize(np.concatenate(codes), (2, count)).astype(np.int32)
    speakers = np.array([0, len(speech.speakers)], np.int32)
    with torch.inference_mode():
        bias = ConditioningGraph(model)(torch.from_numpy(given), torch.from_numpy(speakers))
    step = engine.bind("step", {"batch": 2})
    uniform = noise(0, range(2), count * stride)
    step.reset()
    SamplingParams().write(step.inputs, LEVELS)
    step.inputs["previous"][:] = LEVELS
    levels, logits = [], []
    for start in range(0, count * stride, unroll):
        step.inputs["bias"][:] = bias[start // hop].numpy()
        step.inputs["noise"][:] = uniform[:, start : start + unroll]
        step.run()
        levels.append(step.outputs["levels"].copy())
        logits.append(step.outputs["logits"].copy())
        step.inputs["previous"][:] = levels[-1][:, -1]
    drawn = torch.from_numpy(np.concatenate(levels, 1)).long()
    with torch.inference_mode():
        full = decoder.wavenet(decoder.wavenet.shift_right(drawn), bias.transpose(0, 1), hop)
    expected = full[:, unroll - 1 :: unroll].numpy()
    return float(np.abs(np.stack(logits, 1) - expected).max())


def clips_for(model: ModelLocation, data: str | None, *, limit: int) -> Iterator[Audio]:
    """Up to `limit` recordings of `data`, or those that the run held out; else made by seed."""
    if model.run is None:
        raise VqtrtError(f"{model.path}: verify compares with the run's weights: pass the run")
    config = AudioRun.open(model.run).config
    settings = config.data
    how = settings.preprocessing
    named = data is not None
    if not named and not Path(settings.path).exists():
        yield from made_clips(how.sample_rate, min(limit, 16))
        return
    if data is not None:
        source = open_speech(data, settings.speaker_pattern)
    else:
        source = open_speech(settings.path, settings.speaker_pattern, settings.selection)
    items = list(source.items())
    if not named and len(items) > 1:
        items = split_items(source, settings.holdout, config.train.seed).held_out
    for item in items[:limit]:
        yield source.read(item, how)


def made_clips(rate: int, count: int) -> Iterator[Audio]:
    """Clips of half a second to two: harmonics that glide, under noise."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        t = np.arange(int(rate * rng.uniform(0.5, 2))) / rate
        pitch = rng.uniform(80, 250) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 3) * t))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        voice = sum(np.sin(k * phase) / k for k in range(1, 12))
        audio = 0.1 * voice * rng.uniform(0.3, 1) + rng.normal(0, 0.01, len(t))
        yield audio.astype(np.float32)
