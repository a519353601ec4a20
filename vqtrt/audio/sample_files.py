"""`vqtrt sample` of speech: clips of a prior as codes, for a file or for a decoder."""

from itertools import accumulate
from pathlib import Path

import numpy as np

from vqtrt.audio.chunks import Audio
from vqtrt.audio.inputs import require_speech
from vqtrt.audio.sampler import ClipRequest, ClipSamples, find_clip_prior, known_speakers
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.location import ModelLocation
from vqtrt.engines.base import Engine
from vqtrt.formats.audio_codes import ClipCodes, ClipHeader
from vqtrt.formats.codes import codes_dtype
from vqtrt.formats.codes_writer import ClipWriter
from vqtrt.jobs.encode import sample_fields


def sampled_codes(
    engine: Engine, request: ClipRequest, samples: ClipSamples, model: ModelLocation, out: Path
) -> ClipCodes:
    """Clips as codes with their header, as `read_clip_codes` would read them from `out`.

    `decode_speech` takes them as they are.
    """
    info, speech = find_clip_prior(engine, request.prior)
    names = tuple(f"sample-{number:06d}" for number in range(len(samples.codes)))
    speakers = known_speakers(info, speech)
    prior, seed = request.prior, request.params.seed
    header = ClipHeader(
        sample_rate=speech.preprocessing.sample_rate,
        stride=engine.info.stride,
        preprocessing=speech.preprocessing.model_dump(mode="json"),
        **sample_fields(engine, model, names, speakers, prior=prior, seed=seed),
    )
    return ClipCodes(
        path=out,
        codes=np.concatenate(samples.codes).astype(codes_dtype(info.codebook_size)),
        offsets=tuple(accumulate(map(len, samples.codes), initial=0)),
        header=header,
        files=names,
        labels=tuple(speakers.index(name) for name in samples.speakers if name is not None),
        samples=(samples.samples,) * len(names),
    )


def sampled_audio(engine: Engine, request: ClipRequest, samples: ClipSamples) -> list[Audio]:
    """The audio (T,) of clips, as `decode_codes` writes it."""
    known = require_speech(engine).speakers
    voices = [known.index(name) if name in known else 0 for name in samples.speakers if known]
    voices = voices or [0] * len(samples.codes)
    decoder = AudioTokenizer(engine, batch_size=len(voices), seed=request.params.seed)
    return decoder.decode(samples.codes, voices, samples=[samples.samples] * len(voices))


def write_clip_codes(codes: ClipCodes) -> None:
    """Write clips as the codes file that they name, which `vqtrt decode` takes."""
    assert codes.header is not None  # noqa: S101 - `sampled_codes` gives one
    clips = [codes.clip(index) for index in range(len(codes))]
    labels = codes.labels or (-1,) * len(codes)
    with ClipWriter(codes.path, header=codes.header, resume=False) as writer:
        writer.write(codes.files, labels, clips, codes.samples)
        writer.finish()
