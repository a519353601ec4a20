"""Settings of speech: the VQ-VAE on raw audio, its decoders, and the WaveNet prior over codes."""

import math
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vqtrt.config.parts import (
    CachedFilesConfig,
    ModelledCodes,
    PriorDataConfig,
    QuantizerConfig,
    RunSettings,
    TrainConfig,
    VersionedSettings,
)
from vqtrt.config.settings import Settings
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.formats.bundle import MAX_DELAY, MAX_STRIDE


class WaveNetStack(Settings):
    """A stack of dilated causal gated convolutions (WaveNet, arXiv 1609.03499, section 2)."""

    layers: int = Field(20, ge=1, le=256)
    """Dilated gated convolutions."""
    cycles: int = Field(2, ge=1, le=64)
    """Times that the dilations 1, 2, 4, … begin again; layers / cycles of them each time."""
    channels: int = Field(64, ge=1, le=4096)
    """p: of the residual stream; the gates have as many."""
    head: int = Field(64, ge=1, le=4096)
    """Channels between the skip connections and the logits."""

    @model_validator(mode="after")
    def _whole_cycles(self) -> "WaveNetStack":
        if self.layers % self.cycles or self.layers // self.cycles > 20:
            raise ValueError(
                f"{self.layers} layers in {self.cycles} cycles: each cycle has to have the same "
                "number of layers, at most 20"
            )
        return self

    def check_delays(self, unroll: int) -> None:
        """Raise `ValueError` if a bundle's caches would come back too late to be held."""
        if max(self.dilations) > MAX_DELAY * unroll:
            raise ValueError(
                f"dilations up to {max(self.dilations)} in runs of {unroll}: {MAX_DELAY * unroll} "
                "at most; take more cycles"
            )

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of each layer, from the first."""
        return tuple(2 ** (i % (self.layers // self.cycles)) for i in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Past steps that one step sees, itself included."""
        return 1 + sum(self.dilations)


class WaveNetDecoderConfig(WaveNetStack):
    """The paper's decoder of speech (section 4.3): a WaveNet over 256 levels of mu-law."""

    kind: Literal["wavenet"] = "wavenet"
    """A WaveNet, the paper's."""
    hop: int = Field(64, ge=1)
    """Samples that one frame of conditioning stands for; divides the stride."""
    unroll: int = Field(4, ge=1, le=64)
    """Samples that one run of the step graph draws; a power of two that divides the hop."""
    frame_channels: int = Field(64, ge=1)
    """Channels of a frame of conditioning."""

    @model_validator(mode="after")
    def _unrolled(self) -> "WaveNetDecoderConfig":
        if self.unroll & (self.unroll - 1) or self.hop % self.unroll:
            raise ValueError(
                f"unroll {self.unroll}: must be a power of two that divides the hop {self.hop}"
            )
        self.check_delays(self.unroll)
        return self


class ConvDecoderConfig(Settings):
    """Mirrored transposed convolutions: not the paper's, for those who need speed more."""

    kind: Literal["conv"] = "conv"
    """Transposed convolutions."""
    stem_hidden: int = Field(32, ge=1)
    """Channels beside the audio; doubled at each stride inwards, up to the model's `hidden`."""
    blocks: int = Field(2, ge=0, le=16)
    """Residual blocks, dilated 1, 3, 9, …, after each transposed convolution."""
    waveform_weight: float = Field(1.0, ge=0)
    """Weight of the squared error of the samples, over the data's variance."""
    stft_weight: float = Field(1.0, ge=0)
    """Weight of the multi-resolution STFT loss (arXiv 1910.11480, section 2.2)."""
    stft_sizes: tuple[int, ...] = (256, 512, 1024)
    """Windows of that loss, in samples; each moves on by a quarter."""


def _decoder_kind(value: object) -> object:
    """The decoder's kind; WaveNet, the paper's, where it is not named."""
    if isinstance(value, dict):
        return value.get("kind", "wavenet")
    return getattr(value, "kind", None)


DecoderConfig = Annotated[
    Annotated[WaveNetDecoderConfig, Tag("wavenet")] | Annotated[ConvDecoderConfig, Tag("conv")],
    Discriminator(_decoder_kind),
]


class MelConfig(Settings):
    """Log-mel spectrograms: of the front end, and as a target."""

    n_fft: int = Field(400, ge=16, le=8192)
    """Samples of a window."""
    hop: int = Field(160, ge=1, le=4096)
    """Samples from one window to the next."""
    bands: int = Field(80, ge=2, le=512)
    """Mel bands."""
    floor: float = Field(1e-5, gt=0)
    """Least power of a band, of a full-scale sine's 1: what is quieter counts as silence."""


class TargetConfig(MelConfig):
    """The spectrum that is predicted straight from the codes."""

    cepstra: int | None = Field(None, ge=1)
    """Cosine terms of a log-mel spectrum that are kept, from the first; None for the spectrum."""
    neighbours: float = Field(0.0, ge=0)
    """Weight of the same of the code before and of the one after: with a little of it, codes follow
    phones more (see benchmarks/results)."""

    @property
    def size(self) -> int:
        """Numbers of a frame."""
        return self.bands if self.cepstra is None else min(self.cepstra, self.bands)


class SpeechModelConfig(Settings):
    """The speech VQ-VAE (paper, section 4.3)."""

    kind: Literal["speech"] = "speech"
    """Speech; `image` has settings of its own."""
    hidden: int = Field(256, ge=1)
    """Channels at the rate of the codes."""
    stem_hidden: int = Field(32, ge=1)
    """Channels after the first stride; doubled at each one, up to `hidden`."""
    front: MelConfig | None = None
    """A log-mel spectrogram as the encoder's first layer; None for strides on raw audio alone,
    which is the paper's. With it, `strides` begin after its hop."""
    strides: tuple[int, ...] = (2, 2, 2, 2, 2, 2)
    """Of the encoder's convolutions, whose windows are twice as long: stride 2, window 4."""
    residual_blocks: int = Field(2, ge=0, le=64)
    """Residual blocks after the strides, and before the decoder's."""
    residual_hidden: int = Field(128, ge=1)
    """Channels inside a residual block."""
    speaker_dim: int = Field(64, ge=1)
    """Length of a speaker's embedding."""
    speakers: tuple[str, ...] = ()
    """Names of the data's speakers; filled in when it is trained."""
    jitter: float = Field(0.0, ge=0, lt=1)
    """Share of the codes that training replaces by a neighbour (arXiv 1901.08810, section 2.4)."""
    target: TargetConfig | None = None
    """Spectrum that is also predicted straight from the codes, so that they hold it soon: not the
    paper's. Its hop divides the stride."""
    target_weight: float = Field(1.0, ge=0)
    """Weight of that prediction's squared error, over the variance of each of its numbers."""
    target_steps: int = Field(0, ge=0)
    """First steps in which the decoder rests and that prediction alone is trained."""
    speaker_adversary: float = Field(0.0, ge=0)
    """Weight with which codes unlearn who speaks; 0 leaves it out. Not the paper's."""
    target_only: bool = False
    """Codes are learned from the target alone: the decoder learns to read them, and no gradient of
    it reaches the encoder."""
    decoder: DecoderConfig = WaveNetDecoderConfig()
    """What makes audio of codes and a speaker."""
    quantizer: QuantizerConfig = QuantizerConfig()
    """The codebook."""

    @property
    def stride(self) -> int:
        """Samples that one code stands for."""
        return math.prod(self.strides) * (self.front.hop if self.front else 1)

    @model_validator(mode="after")
    def _fits(self) -> "SpeechModelConfig":
        if not self.strides or min(self.strides) < 1 or self.stride > MAX_STRIDE:
            raise ValueError("strides: one number above 0 for each convolution, 65,536 in all")
        if self.quantizer.num_codebooks != 1:
            raise ValueError("quantizer.num_codebooks: speech has one codebook")
        if isinstance(self.decoder, WaveNetDecoderConfig) and self.stride % self.decoder.hop:
            raise ValueError(
                f"decoder.hop {self.decoder.hop}: must divide the stride {self.stride}"
            )
        if self.target and self.stride % self.target.hop:
            raise ValueError(f"target.hop {self.target.hop}: must divide the stride {self.stride}")
        if (self.target_steps or self.target_only) and not self.target:
            raise ValueError("target_steps, target_only: need a target, or codes would not learn")
        return self


class SpeechDataConfig(CachedFilesConfig):
    """What is trained on."""

    path: str = "speech"
    """A folder of recordings, one sub-folder a speaker, or the VCTK corpus."""
    speaker_pattern: str | None = None
    """Regular expression with a group `speaker`, for names that hold the speaker."""
    preprocessing: AudioPreprocessing = AudioPreprocessing()
    """Rate and level that recordings are brought to."""
    crop: int = Field(7680, ge=1)
    """Samples of a recording in a batch, rounded up to whole codes; the samples around them that
    convolutions need come on top."""
    target_batch: int | None = Field(None, ge=1)
    """Crops of a step while the decoder rests (`model.target_steps`), where they are cheap; None
    for `train.batch_size`."""
    holdout: int = Field(200, ge=1)
    """Recordings set aside for evaluation, drawn by seed; at most a tenth of the data."""


class SpeechConfig(RunSettings):
    """All settings of a run on speech."""

    model: SpeechModelConfig = SpeechModelConfig()
    data: SpeechDataConfig = SpeechDataConfig()


class WaveNetConfig(WaveNetStack):
    """The WaveNet prior over the codes of speech."""

    kind: Literal["wavenet"] = "wavenet"
    """A WaveNet, for the codes of speech."""
    layers: int = Field(12, ge=1, le=256)
    """Dilated gated convolutions."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the embeddings of earlier codes that training drops."""
    codebook_size: int = Field(512, ge=2)
    """K of the codes; filled in from them."""
    num_classes: int = Field(0, ge=0)
    """Speakers that it is conditioned on, 0 for none; filled in from the codes."""

    @model_validator(mode="after")
    def _rolled(self) -> "WaveNetConfig":
        self.check_delays(unroll=1)
        return self


class ClipCodesConfig(ModelledCodes):
    """The codes that a prior models; filled in from them when it is trained."""

    sample_rate: int = Field(16000, ge=1)
    """Samples per second of the audio."""
    stride: int = Field(64, ge=1)
    """Samples a code."""


class SpeechPriorDataConfig(PriorDataConfig):
    """What a prior over speech is trained on."""

    crop: int = Field(256, ge=2)
    """Codes of a recording in a batch."""
    join: int = Field(1, ge=1, le=64)
    """Recordings of a speaker that follow each other in a crop, drawn by seed: of short ones, so
    that the prior goes on with another where one ends; 1 leaves each by itself."""


class SpeechPriorConfig(VersionedSettings):
    """All settings of a prior over speech."""

    prior: WaveNetConfig = WaveNetConfig()
    codes: ClipCodesConfig = ClipCodesConfig()
    data: SpeechPriorDataConfig = SpeechPriorDataConfig()
    train: TrainConfig = TrainConfig()
