"""Recordings to codes and back on a stand-in for an engine, and what such a job leaves."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from doubles import MODEL
from speech_doubles import RATE, STRIDE, FakeSpeechEngine

from vqtrt.audio.decode import decode_codes
from vqtrt.audio.encode import encode_source
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.formats.audio_codes import ClipCodes, ClipHeader

LENGTHS = [60, 900, 7, 60, 64, 300, 1, 145, 144, 143, 33, 50, 1500, 20, 21, 22, 400, 5, 99, 100]
"""Samples of twenty recordings; a chunk is 144, so that five are cut, and one of them streams."""


def encode(source, out: Path, *, batch_size: int = 2, engine=None, **options):
    settings: dict[str, Any] = {"root": "voices", "model": MODEL, "workers": 2} | options
    tokenizer = AudioTokenizer(engine or FakeSpeechEngine(), batch_size=batch_size)
    return encode_source(tokenizer, source, out, **settings)


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


PARTIAL = ["codes.npy.partial", "codes.npy.partial.jsonl"]


def codes_of(path: Path, lengths: list[int], files=None, labels=None, **header) -> ClipCodes:
    """As read from files that a stranger gave; lengths in samples."""
    counts = [-(-length // STRIDE) for length in lengths]
    fields = {
        "codebook_size": 200,
        "sample_rate": RATE,
        "stride": STRIDE,
        "classes": ("bob", "zoe"),
        "root": "voices",
        "listing_sha256": "a" * 64,
        "weights_sha256": "f" * 64,
        "model": {},
        "preprocessing": {},
        "vqtrt_version": "0.1.0",
    }
    return ClipCodes(
        path / "codes.npy",
        np.random.default_rng(0).integers(0, 200, sum(counts)).astype(np.uint8),
        tuple(itertools.accumulate(counts, initial=0)),
        ClipHeader(**(fields | header)),
        tuple(files or (f"{index}.flac" for index in range(len(lengths)))),
        tuple(labels or [0] * len(lengths)),
        tuple(lengths),
    )


def decode(codes: ClipCodes, out: Path, *, batch_size: int = 3, before=None, **options) -> int:
    engine = FakeSpeechEngine(before=before or (lambda *_: None))
    return decode_codes(AudioTokenizer(engine, batch_size=batch_size), codes, out, **options)


def samples(path: Path) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return audio


def wanted(codes: ClipCodes, index: int, speaker: int) -> np.ndarray:
    clip = np.asarray(codes.clip(index))[None].astype(np.int32)
    audio = FakeSpeechEngine().decoder(clip, np.array([speaker]))[0][: codes.samples[index]]
    return np.rint(audio * 32767).astype(np.int16)
