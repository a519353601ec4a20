"""Every setting as a typed model; `config/settings.py` reads them.

A recipe is a YAML file in `vqtrt/recipes/`; a run keeps the settings it was trained with in
`config.yaml`. Both hold the same `Config`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vqtrt.config.audio import SpeechConfig, SpeechPriorConfig
from vqtrt.config.parts import (
    CachedFilesConfig,
    ModelledCodes,
    PriorDataConfig,
    QuantizerConfig,
    RunSettings,
    TrainConfig,
    VersionedSettings,
)
from vqtrt.config.settings import Settings, find_recipe, read_settings, read_yaml
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.errors import VqtrtError

RECIPES = Path(__file__).parents[1] / "recipes"


class LikelihoodConfig(Settings):
    """What the model says of pixels and latents, for likelihoods (paper, section 4.1)."""

    head: Literal["mse", "gaussian", "categorical"] = "mse"
    """`mse`: the decoder gives a value, and there is no likelihood. `categorical`: a softmax over
    the 256 bytes for each channel of each pixel, as the authors have it. `gaussian`: a Gaussian
    over the bytes, with a mean and a scale for each."""
    latents: Literal["codes", "gaussian", "vimco"] = "codes"
    """`codes`: the VQ-VAE. The baselines: `gaussian`, a continuous VAE; `vimco`, discrete latents
    by a bound of several samples. Baselines are trained and evaluated, and have no bundle."""
    gaussian_channels: int = Field(32, ge=1, le=4096)
    """Latents at each position, for `latents: gaussian`."""
    samples: int = Field(50, ge=2, le=1000)
    """Samples of the bound that `latents: vimco` is trained with; 50 in the paper."""
    positions: int | None = Field(None, ge=1)
    """Random pixels of each image that train the head, for speed; None for all. `vimco` always
    takes all."""
    kl_warmup: float = Field(0.2, ge=0, le=1)
    """Share of the steps in which the KL's weight rises from 0 to 1, for `latents: gaussian`."""

    @model_validator(mode="after")
    def _has_likelihood(self) -> "LikelihoodConfig":
        if self.latents != "codes" and self.head == "mse":
            raise ValueError(
                f"latents {self.latents} need a likelihood; set head to categorical or gaussian"
            )
        return self


class ModelConfig(Settings):
    """The image VQ-VAE (paper, section 4.1)."""

    kind: Literal["image"] = "image"
    """Images; `speech` has settings of its own."""
    hidden: int = Field(128, ge=1)
    """Channels of the convolutions."""
    stem_hidden: int | None = Field(None, ge=1)
    """Channels beside the picture (after the first stride, before the last), if not `hidden`."""
    residual_blocks: int = Field(2, ge=0)
    """Residual blocks in the encoder, and in the decoder."""
    residual_hidden: int = Field(32, ge=1)
    """Channels inside a residual block."""
    strided_layers: int = Field(2, ge=1, le=8)
    """Convolutions of stride 2: a code stands for 2**strided_layers pixels."""
    bridge: bool = True
    """A 3x3 convolution between strides and blocks: in the authors' Sonnet code only."""
    code_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the positions that training hides from the decoder, so that codes learn to be told
    from their neighbours: easier for a prior, at some cost in reconstruction."""
    quantizer: QuantizerConfig = QuantizerConfig()
    """The codebook."""
    likelihood: LikelihoodConfig = LikelihoodConfig()
    """Likelihoods."""

    @property
    def stride(self) -> int:
        """Pixels a side that one code stands for."""
        return 1 << self.strided_layers


class PixelCNNConfig(Settings):
    """The gated PixelCNN prior (arXiv 1606.05328)."""

    kind: Literal["pixelcnn"] = "pixelcnn"
    """A PixelCNN, for the codes of images."""
    layers: int = Field(15, ge=2, le=256)
    """Gated layers."""
    channels: int = Field(64, ge=1)
    """Channels of each stack."""
    kernel: int | None = Field(None, ge=3, le=31)
    """Columns of a kernel, odd; None for the smallest that leaves no position out of reach."""
    first_kernel: int = Field(7, ge=3, le=31)
    """Columns of the first layer's kernel, odd."""
    head: int = Field(256, ge=1)
    """Channels between the skip connections and the logits."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the skip connections that training drops."""
    codebook_size: int = Field(512, ge=2)
    """K of the codes; filled in from them."""
    num_codebooks: int = Field(1, ge=1)
    """C of the codes; filled in from them."""
    num_classes: int = Field(0, ge=0)
    """Labels that it is conditioned on, 0 for none; filled in from the codes."""

    @field_validator("kernel", "first_kernel")
    @classmethod
    def _odd(cls, value: int | None) -> int | None:
        if value is not None and value % 2 == 0:
            raise ValueError("must be odd")
        return value

    def receptive_field(self, kernel: int) -> int:
        """Rows and columns that a position sees in each direction, with that kernel."""
        return self.first_kernel // 2 + (self.layers - 1) * (kernel // 2)

    def fitted(self, height: int, width: int) -> "PixelCNNConfig":
        """The same with its kernel chosen for a grid of codes, if it was left open."""
        if self.kernel is not None:
            return self
        kernel = 3
        while self.receptive_field(kernel) < max(height, width) - 1:
            kernel += 2
        return self.model_copy(update={"kernel": kernel})


class DataConfig(CachedFilesConfig):
    """What is trained on."""

    path: str = "shapes"
    """A folder of images, an array file, the CIFAR-10 binary archive, or `shapes`."""
    preprocessing: Preprocessing = Preprocessing()
    """Size that images are brought to; height and width are multiples of the stride."""
    holdout: int = Field(500, ge=1)
    """Images set aside for evaluation, drawn by seed; at most a tenth of the data."""


class Config(RunSettings):
    """All settings of a run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()

    @model_validator(mode="after")
    def _divisible(self) -> "Config":
        size = self.data.preprocessing
        if size.height % self.model.stride or size.width % self.model.stride:
            raise ValueError(
                f"data.preprocessing: {size.height}x{size.width} pixels cannot be divided by the "
                f"stride {self.model.stride}; change the size or model.strided_layers"
            )
        return self


class CodesConfig(ModelledCodes):
    """The codes that a prior models; filled in from them when it is trained."""

    height: int = Field(8, ge=1)
    """Rows of codes."""
    width: int = Field(8, ge=1)
    """Columns of codes."""


class PriorConfig(VersionedSettings):
    """All settings of a prior."""

    prior: PixelCNNConfig = PixelCNNConfig()
    codes: CodesConfig = CodesConfig()
    data: PriorDataConfig = PriorDataConfig()
    train: TrainConfig = TrainConfig()


def load_config(recipe: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe by name or a YAML file; apply `key=value` overrides (`train.steps=100`).

    Raises `VqtrtError` for settings of speech.
    """
    path = find_recipe(RECIPES, recipe)
    if _kind(path, ("model", "kind")) == "speech":
        raise VqtrtError(f"{recipe}: is of speech, and this is for images")
    return read_settings(Config, path, overrides)


def load_speech_config(recipe: str | Path, overrides: Iterable[str] = ()) -> SpeechConfig:
    """The same for settings of speech."""
    path = find_recipe(RECIPES, recipe)
    if _kind(path, ("model", "kind")) != "speech":
        raise VqtrtError(f"{recipe}: is of images, and this needs one of audio")
    return read_settings(SpeechConfig, path, overrides)


def load_any_config(recipe: str | Path, overrides: Iterable[str] = ()) -> Config | SpeechConfig:
    """Settings of either kind, by their `model.kind`."""
    if _kind(find_recipe(RECIPES, recipe), ("model", "kind")) == "speech":
        return load_speech_config(recipe, overrides)
    return load_config(recipe, overrides)


def load_prior_config(
    recipe: str | Path, overrides: Iterable[str] = ()
) -> PriorConfig | SpeechPriorConfig:
    """Settings of a prior, by their `prior.kind`."""
    path = find_recipe(RECIPES / "priors", recipe)
    if _kind(path, ("prior", "kind")) == "wavenet":
        return read_settings(SpeechPriorConfig, path, overrides)
    return read_settings(PriorConfig, path, overrides)


def holds_settings(path: Path, group: Literal["model", "prior"]) -> bool:
    """Whether a `config.yaml` is vqtrt's own: of a run (`model`), or of a prior (`prior`).

    Many projects keep a file of this name. What vqtrt writes has a format version, and a group of
    settings that says its kind. Raises `VqtrtError` for a file that is not YAML.
    """
    settings = read_yaml(path)
    part = settings.get(group)
    return "format_version" in settings and isinstance(part, dict) and "kind" in part


def _kind(path: Path, keys: Iterable[str]) -> object:
    """A value of a settings file, before the file is validated; None if it has none."""
    value: object = read_yaml(path)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
