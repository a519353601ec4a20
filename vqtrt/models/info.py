"""The facts of a model that go into its bundle."""

from vqtrt.config.images import ModelConfig
from vqtrt.formats.bundle import ModelInfo


def model_info(config: ModelConfig) -> ModelInfo:
    """What a user of the codes has to know."""
    quantizer = config.quantizer
    return ModelInfo(
        codebook_size=quantizer.codebook_size,
        num_codebooks=quantizer.num_codebooks,
        code_dim=quantizer.dim,
        stride=config.stride,
    )
