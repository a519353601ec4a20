"""Quantizers: vectors to codes and back. One family a file, one interface (`base.py`)."""

from vqtrt.config.parts import QuantizerConfig
from vqtrt.models.quantize.base import Quantized, VectorQuantizer
from vqtrt.models.quantize.cosine import CosineQuantizer
from vqtrt.models.quantize.ema import EMAQuantizer
from vqtrt.models.quantize.gradient import GradientQuantizer
from vqtrt.models.quantize.simvq import SimVQQuantizer

__all__ = [
    "CosineQuantizer",
    "EMAQuantizer",
    "GradientQuantizer",
    "Quantized",
    "SimVQQuantizer",
    "VectorQuantizer",
    "build_quantizer",
]

_KINDS: dict[str, type[VectorQuantizer]] = {
    "ema": EMAQuantizer,
    "gradient": GradientQuantizer,
    "cosine": CosineQuantizer,
    "simvq": SimVQQuantizer,
}


def build_quantizer(config: QuantizerConfig) -> VectorQuantizer:
    """The quantizer that the settings name."""
    return _KINDS[config.kind](config)
