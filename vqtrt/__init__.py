"""VQ-VAE from training to deployment: images and speech to discrete codes and back.

import vqtrt

tokenizer = vqtrt.load("runs/cifar10-small")
image = vqtrt.open_image("photo.jpg", tokenizer)  # as `vqtrt encode` reads it
codes = tokenizer.encode(image[None])  # uint8 (N, H, W, 3) -> (N, h, w)
images = tokenizer.decode(codes)
"""

import importlib
from typing import TYPE_CHECKING, Any

from vqtrt.errors import AudioError, ImageError, VqtrtError
from vqtrt.version import __version__

if TYPE_CHECKING:
    from vqtrt.images.tokenizer import ImageTokenizer, load
    from vqtrt.opening import open_audio, open_image

__all__ = [
    "AudioError",
    "ImageError",
    "ImageTokenizer",
    "VqtrtError",
    "__version__",
    "load",
    "open_audio",
    "open_image",
]

_HOMES = {
    "ImageTokenizer": "images.tokenizer",
    "load": "images.tokenizer",
    "open_audio": "opening",
    "open_image": "opening",
}
"""Modules of what is imported when it is asked for: `vqtrt --help` needs no numpy."""


def __getattr__(name: str) -> Any:
    """The public names that need more than the standard library."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"vqtrt.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
