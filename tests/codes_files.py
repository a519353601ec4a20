"""Files of codes of images: what is written into them, and what lies there."""

from pathlib import Path
from typing import Any

import numpy as np

from vqtrt.formats.codes import CodesHeader
from vqtrt.formats.codes_writer import CodesWriter


def header(**changes: Any) -> CodesHeader:
    fields: dict[str, Any] = {
        "codebook_size": 512,
        "code_shape": (3, 4),
        "image_size": (12, 16),
        "classes": ("cat", "dog"),
        "root": "data",
        "listing_sha256": "a" * 64,
        "weights_sha256": "b" * 64,
        "model": {"run": "r1"},
        "preprocessing": {"resize": 12, "crop": [12, 16]},
        "vqtrt_version": "0.1.0",
    }
    return CodesHeader(**{**fields, **changes})


def values(n: int, shape: tuple[int, ...] = (3, 4), size: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, (n, *shape), dtype=np.int32)


def names(start: int, stop: int) -> list[str]:
    return [f"dir/{i:05}.png" for i in range(start, stop)]


def labels(start: int, stop: int) -> list[int]:
    return [i % 3 - 1 for i in range(start, stop)]


def put(writer: CodesWriter, codes: np.ndarray, start: int, stop: int) -> None:
    writer.write(names(start, stop), labels(start, stop), codes[start:stop])


def write(out: Path, codes: np.ndarray, **changes: Any) -> Path:
    with CodesWriter(out, header=header(**changes), resume=False) as writer:
        put(writer, codes, 0, len(codes))
        return writer.finish()


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


ALL = ["codes.json", "codes.npy"]
PARTIAL = ["codes.npy.partial", "codes.npy.partial.jsonl"]
