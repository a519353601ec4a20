"""A speech tokenizer on a stand-in for an engine, and what it is called with."""

import numpy as np
from speech_doubles import STRIDE, FakeSpeechEngine

from vqtrt.audio.tokenizer import AudioTokenizer

CHUNK = 30
"""Codes of a chunk that are kept, in these tests."""


def tokenizer(batch_size: int = 4, **engine) -> AudioTokenizer:
    return AudioTokenizer(FakeSpeechEngine(**engine), batch_size=batch_size)


def whole(audio: np.ndarray, **engine) -> np.ndarray:
    """Codes of a recording that goes through the encoder in one piece."""
    padded = np.pad(audio, (0, -len(audio) % STRIDE))
    return FakeSpeechEngine(**engine).encoder(padded[None])[0]


def in_blocks(audio: np.ndarray, size: int):
    return iter([audio[start : start + size] for start in range(0, len(audio), size)])


def codes_of(seed: int, count: int, size: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, count).astype(np.uint8)


class Seen:
    """What the engine was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, name: str, array: np.ndarray) -> None:
        self.shapes.append(array.shape)


def lengths_of(seen: Seen) -> set[int]:
    return {shape[1] for shape in seen.shapes}


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
