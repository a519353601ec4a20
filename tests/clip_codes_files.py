"""Files of codes of recordings: what is written into them."""

from pathlib import Path
from typing import Any

import numpy as np

from vqtrt.formats.audio_codes import ClipCodes, ClipHeader, codes_in
from vqtrt.formats.codes import CodesHeader
from vqtrt.formats.codes_writer import ClipWriter

STRIDE = 64


def header(**changes: Any) -> ClipHeader:
    fields: dict[str, Any] = {
        "codebook_size": 512,
        "sample_rate": 16_000,
        "stride": STRIDE,
        "classes": ("jackson", "theo"),
        "root": "data",
        "listing_sha256": "a" * 64,
        "weights_sha256": "b" * 64,
        "model": {"path": "r1"},
        "preprocessing": {"sample_rate": 16_000, "level_db": None},
        "vqtrt_version": "0.1.0",
    }
    return ClipHeader(**{**fields, **changes})


SAMPLES = [64 * 5, 1, 64, 65, 64 * 40 - 1, 64 * 9 + 3, 700, 2000]
"""Of eight clips; the lengths that fill a code and those beside it are among them."""


def clips(seed: int = 0, size: int = 512, samples: list[int] = SAMPLES) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, size, codes_in(n, STRIDE), dtype=np.int32) for n in samples]


def names(start: int, stop: int) -> list[str]:
    return [f"dir/{i:05}.wav" for i in range(start, stop)]


def labels(start: int, stop: int) -> list[int]:
    return [i % 3 - 1 for i in range(start, stop)]


def put(writer: ClipWriter, start: int, stop: int, seed: int = 0) -> None:
    part = slice(start, stop)
    writer.write(names(start, stop), labels(start, stop), clips(seed)[part], SAMPLES[part])


def write(out: Path, **changes: Any) -> Path:
    with ClipWriter(out, header=header(**changes), resume=False) as writer:
        put(writer, 0, len(SAMPLES))
        return writer.finish()


def same(codes: ClipCodes, wanted: list[np.ndarray]) -> None:
    assert len(codes) == len(wanted)
    for index, clip in enumerate(wanted):
        np.testing.assert_array_equal(codes.clip(index), clip)


def image_header() -> CodesHeader:
    fields = header().model_dump(exclude={"kind", "sample_rate", "stride"})
    return CodesHeader(**fields, code_shape=(2, 2), image_size=(8, 8))
