"""A run on speech: laid out as `run.py` says, with settings of speech."""

from pathlib import Path

from vqtrt.config.audio import SpeechConfig, WaveNetDecoderConfig
from vqtrt.config.images import load_any_config, load_speech_config
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import ModelInfo, SpeechInfo
from vqtrt.models.audio import SpeechVQVAE
from vqtrt.training.checkpoints import load_weights


class SpeechRun:
    """A run's folder and its config."""

    def __init__(self, path: Path, config: SpeechConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def open(cls, path: Path) -> "SpeechRun":
        """Read the config of an existing run."""
        if not (path / "config.yaml").is_file():
            raise VqtrtError(f"{path} is no run: it has no config.yaml; `vqtrt train` makes one")
        return cls(path, load_speech_config(path / "config.yaml"))

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.path / "model.safetensors"

    @property
    def sample_rate(self) -> int:
        """Of the audio that the model takes."""
        return self.config.data.preprocessing.sample_rate

    def load_model(self) -> SpeechVQVAE:
        """The trained model, in evaluation mode, on the CPU."""
        if not self.weights.is_file():
            raise VqtrtError(
                f"{self.path} has no weights yet: `vqtrt train --resume --out {self.path}` goes on"
            )
        model = SpeechVQVAE(self.config.model, self.sample_rate)
        load_weights(model, self.weights)
        return model.eval().requires_grad_(False)


def is_speech_run(path: Path) -> bool:
    """Whether a run is on speech; False for what is no run, too."""
    config = path / "config.yaml"
    return config.is_file() and isinstance(load_any_config(config), SpeechConfig)


def speech_info(model: SpeechVQVAE, config: SpeechConfig) -> tuple[ModelInfo, SpeechInfo]:
    """What a user of the codes has to know, for the bundle."""
    settings, decoder = config.model, config.model.decoder
    quantizer = settings.quantizer
    hop, unroll = 1, 1
    if isinstance(decoder, WaveNetDecoderConfig):
        hop, unroll = decoder.hop, decoder.unroll
    facts = ModelInfo(
        codebook_size=quantizer.codebook_size,
        num_codebooks=1,
        code_dim=quantizer.dim,
        stride=settings.stride,
    )
    return facts, SpeechInfo(
        preprocessing=config.data.preprocessing,
        decoder=decoder.kind,
        speakers=settings.speakers,
        context=model.encoder.context,
        decoder_context=model.decoder_context,
        hop=hop,
        unroll=unroll,
    )
