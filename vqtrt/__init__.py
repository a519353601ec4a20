"""VQ-VAE from training to deployment: images and audio to discrete codes and back.

import vqtrt

tokenizer = vqtrt.load("runs/cifar10-small")
image = tokenizer.open_image("photo.jpg")  # as `vqtrt encode` reads it
codes = tokenizer.encode(image[None])  # uint8 (N, H, W, 3) -> (N, h, w)
images = tokenizer.decode(codes)
"""

import importlib
from typing import TYPE_CHECKING, Any

from vqtrt.errors import AudioError, ImageError, VqtrtError
from vqtrt.version import __version__

if TYPE_CHECKING:
    from vqtrt.api import load, open_audio, open_image, sample
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.formats.items import open_codes
    from vqtrt.images.tokenizer import ImageTokenizer

__all__ = [
    "AudioError",
    "AudioTokenizer",
    "ImageError",
    "ImageTokenizer",
    "VqtrtError",
    "__version__",
    "load",
    "open_audio",
    "open_codes",
    "open_image",
    "sample",
]

_HOMES = {
    "AudioTokenizer": "audio.tokenizer",
    "ImageTokenizer": "images.tokenizer",
    "load": "api",
    "open_audio": "api",
    "open_codes": "formats.items",
    "open_image": "api",
    "sample": "api",
}
"""Modules of what is imported when it is asked for: `vqtrt --help` needs no numpy."""


def __getattr__(name: str) -> Any:
    """The public names that need more than the standard library."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"vqtrt.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
