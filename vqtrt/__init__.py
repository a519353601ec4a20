"""VQ-VAE from training to deployment: images and speech to discrete codes and back.

import vqtrt

tokenizer = vqtrt.load("runs/cifar10-small")
codes = tokenizer.encode(images)    # uint8 (N, H, W, 3) -> (N, h, w)
images = tokenizer.decode(codes)
"""

from typing import TYPE_CHECKING, Any

from vqtrt.errors import AudioError, ImageError, VqtrtError

if TYPE_CHECKING:
    from vqtrt.tokenizer import Tokenizer, load

__all__ = ["AudioError", "ImageError", "Tokenizer", "VqtrtError", "__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Tokenizer` and `load`, imported when they are asked for: `vqtrt --help` needs no numpy."""
    if name in ("Tokenizer", "load"):
        from vqtrt import tokenizer

        return getattr(tokenizer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
