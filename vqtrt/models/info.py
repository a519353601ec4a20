"""What a bundle says of a model."""

from vqtrt.config.audio import SpeechConfig, WaveNetDecoderConfig
from vqtrt.config.images import ModelConfig
from vqtrt.formats.bundle import ModelInfo, SpeechInfo
from vqtrt.models.audio import SpeechVQVAE


def model_info(config: ModelConfig) -> ModelInfo:
    """What a user of the codes has to know."""
    quantizer = config.quantizer
    return ModelInfo(
        codebook_size=quantizer.codebook_size,
        num_codebooks=quantizer.num_codebooks,
        code_dim=quantizer.dim,
        stride=config.stride,
    )


def speech_info(model: SpeechVQVAE, config: SpeechConfig) -> tuple[ModelInfo, SpeechInfo]:
    """What a user of the codes has to know, for the bundle."""
    settings, decoder = config.model, config.model.decoder
    quantizer = settings.quantizer
    hop, unroll = 1, 1
    if isinstance(decoder, WaveNetDecoderConfig):
        hop, unroll = decoder.hop, decoder.unroll
    info = ModelInfo(
        codebook_size=quantizer.codebook_size,
        num_codebooks=1,
        code_dim=quantizer.dim,
        stride=settings.stride,
    )
    return info, SpeechInfo(
        preprocessing=config.data.preprocessing,
        decoder=decoder.kind,
        speakers=settings.speakers,
        context=model.encoder.context,
        decoder_context=model.decoder_context,
        hop=hop,
        unroll=unroll,
    )
