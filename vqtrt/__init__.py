"""VQ-VAE from training to deployment: images to discrete codes and back.

import vqtrt

tokenizer = vqtrt.load("runs/cifar10-small")
codes = tokenizer.encode(images)    # uint8 (N, H, W, 3) -> (N, h, w)
images = tokenizer.decode(codes)
"""

from vqtrt.errors import ImageError, VqtrtError
from vqtrt.tokenizer import Tokenizer, load

__all__ = ["ImageError", "Tokenizer", "VqtrtError", "__version__", "load"]

__version__ = "0.1.0"
