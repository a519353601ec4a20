"""Pictures to codes and back on a stand-in for an engine, and what such a job leaves."""

from pathlib import Path
from typing import Any

import numpy as np
from doubles import MODEL, FakeEngine
from PIL import Image

from vqtrt.formats.codes import Codes
from vqtrt.images.decode import decode_codes
from vqtrt.images.encode import encode_source
from vqtrt.images.tokenizer import ImageTokenizer

NAMES = ["b/1.png", "b/10.png", "b/2.png", "a/z.bmp", "top.png", "a/B/deep.png", "a/é.png"]


def tokenizer(batch_size: int = 3, **engine) -> ImageTokenizer:
    return ImageTokenizer(FakeEngine(**engine), batch_size=batch_size)


def encode(source, out: Path, *, batch_size: int = 3, engine=None, **options):
    root = str(getattr(source, "root", "fake"))
    settings: dict[str, Any] = {"root": root, "model": MODEL, "workers": 2} | options
    return encode_source(
        ImageTokenizer(engine or FakeEngine(), batch_size=batch_size), source, out, **settings
    )


def decode(
    codes: Codes, out: Path, *, batch_size: int = 3, note=lambda text: None, **engine
) -> int:
    return decode_codes(tokenizer(batch_size, **engine), codes, out, workers=2, note=note)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path.name != "pics")


BOTH = ["codes.json", "codes.npy"]
PARTIAL = ["codes.npy.partial", "codes.npy.partial.jsonl"]


def codes_of(path: Path, *files: str, shape: tuple[int, ...] = (4, 4)) -> Codes:
    """As read from files that a stranger gave."""
    rows = np.arange(len(files) * int(np.prod(shape)), dtype=np.uint8) % 200
    return Codes(path / "codes.npy", rows.reshape(-1, *shape), None, files)
