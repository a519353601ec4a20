"""Every setting as a typed model, read from YAML and `--set key=value`; an unknown key is an error.

A recipe is a YAML file in `vqtrt/recipes/`; a run keeps the settings it was trained with in
`config.yaml`. Both hold the same `Config`.
"""

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vqtrt.data.preprocessing import Preprocessing
from vqtrt.errors import VqtrtError

RECIPES = Path(__file__).parent / "recipes"
_MAX_YAML_BYTES = 2**20
# PyYAML lets through what a date such as 2024-13-45 and a very deep nesting raise.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


class Settings(BaseModel):
    """Base of all settings: no unknown keys, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class QuantizerConfig(Settings):
    """The codebook (paper, section 3)."""

    kind: Literal["ema", "gradient"] = "ema"
    """`gradient`: the codebook loss of equation 3. `ema`: moving averages, appendix A.1."""
    codebook_size: int = Field(512, ge=2, le=2**24)
    """K, entries of a codebook."""
    dim: int = Field(64, ge=1, le=4096)
    """D, length of an entry."""
    num_codebooks: int = Field(1, ge=1, le=64)
    """C, codes at a position, each with a codebook of its own."""
    beta: float = Field(0.25, ge=0)
    """Weight of the commitment loss; results hardly vary from 0.1 to 2.0 (section 3.2)."""
    decay: float = Field(0.99, gt=0, lt=1)
    """Decay of the moving averages (appendix A.1), once they have warmed up."""
    epsilon: float = Field(1e-5, gt=0)
    """Laplace smoothing of the counts, as in the authors' Sonnet code."""
    restart_below: float = Field(0.03, ge=0, lt=1)
    """A code used less than this share of an even use is restarted from the data; 0 for never."""


class ModelConfig(Settings):
    """The image VQ-VAE (paper, section 4.1)."""

    kind: Literal["image"] = "image"
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
    quantizer: QuantizerConfig = QuantizerConfig()

    @property
    def stride(self) -> int:
        """Pixels a side that one code stands for."""
        return 1 << self.strided_layers


class PixelCNNConfig(Settings):
    """The gated PixelCNN prior (arXiv 1606.05328)."""

    kind: Literal["pixelcnn"] = "pixelcnn"
    layers: int = Field(15, ge=2, le=256)
    channels: int = Field(64, ge=1)
    """Channels of each stack."""
    kernel: int = Field(3, ge=3, le=31)
    """Columns of a kernel, odd. It has to be large enough that no position is out of reach."""
    first_kernel: int = Field(7, ge=3, le=31)
    """Columns of the first layer's kernel, odd."""
    head: int = Field(256, ge=1)
    """Channels between the skip connections and the logits."""
    dropout: float = Field(0.0, ge=0, lt=1)
    codebook_size: int = Field(512, ge=2)
    num_codebooks: int = Field(1, ge=1)
    num_classes: int = Field(0, ge=0)
    """Labels that it is conditioned on; 0 for none."""

    @property
    def reach(self) -> int:
        """Rows and columns that a position sees in each direction."""
        return self.first_kernel // 2 + (self.layers - 1) * (self.kernel // 2)


class DataConfig(Settings):
    """What is trained on."""

    path: str = "shapes"
    """A folder of images, an array file, the CIFAR-10 binary archive, or `shapes`."""
    preprocessing: Preprocessing = Preprocessing()
    holdout: int = Field(500, ge=1)
    """Images set aside for evaluation, drawn by seed; at most a tenth of the data."""
    workers: int = Field(2, ge=1, le=256)
    """Threads that read images."""
    cache_mib: int = Field(1024, ge=0)
    """Decoded images are kept in memory if all of them fit in this."""


class TrainConfig(Settings):
    """How it is trained."""

    steps: int = Field(10_000, ge=1)
    batch_size: int = Field(32, ge=1)
    """Images a step, over all processes together."""
    learning_rate: float = Field(2e-4, gt=0)
    seed: int = Field(0, ge=0, lt=2**63)
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the convolutions; distances and losses stay in float32."""
    log_every: int = Field(50, ge=1)
    evaluate_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    keep_checkpoints: int = Field(2, ge=1)

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no(cls, value: object) -> object:
        # YAML 1.1 reads a bare `no` as false.
        return "no" if value is False else value


class Config(Settings):
    """All settings of a run."""

    format_version: Literal[1] = 1
    recipe: str = Field("custom", pattern=r"^\w[\w.-]*$")
    """A name, which the run's folder gets too."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _divisible(self) -> "Config":
        size = self.data.preprocessing
        if size.height % self.model.stride or size.width % self.model.stride:
            raise ValueError(
                f"data.preprocessing: {size.height}x{size.width} pixels cannot be divided by the "
                f"stride {self.model.stride}; change the size or model.strided_layers"
            )
        return self

    def to_yaml(self) -> str:
        """The text that `load_config` reads back to an equal config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def recipe_names() -> list[str]:
    """Names that `vqtrt train` takes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_config(recipe: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe by name or a YAML file; apply `key=value` overrides (`train.steps=100`)."""
    path = RECIPES / f"{recipe}.yaml"
    if "/" in str(recipe) or Path(recipe).suffix in (".yaml", ".yml"):
        path = Path(recipe)
    elif not path.is_file():
        known = ", ".join(recipe_names())
        raise VqtrtError(f"no recipe {recipe!r}: choose one of {known}, or name a YAML file")
    settings = _read_yaml(path)
    for override in overrides:
        _set(settings, override)
    return parse_config(settings, str(path))


def parse_config(settings: Mapping[str, Any], where: str) -> Config:
    """Validate settings; `where` names them in the error."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise VqtrtError(f"{where}: {_first_problem(error)}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_YAML_BYTES:
            raise VqtrtError(f"{path}: larger than {_MAX_YAML_BYTES} bytes: not a settings file")
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VqtrtError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise VqtrtError(f"{path}: cannot be read ({error})") from error
    except _NOT_YAML as error:
        reason = " ".join(str(error).split())
        raise VqtrtError(f"{path}: not valid YAML ({reason})") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise VqtrtError(
            f"{path}: expected settings as `key: value`, found {type(settings).__name__}"
        )
    return settings


def _set(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise VqtrtError(f"--set {override!r}: expected key=value, such as train.steps=2000")
    *parents, last = key.split(".")
    table = settings
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise VqtrtError(f"--set {override!r}: {parent!r} is a value, not a group of settings")
    group = _group(parents)
    field = group.model_fields.get(last) if group else None
    # A text is taken as it stands: a folder may be called 2024, or yes.
    table[last] = text if field and field.annotation is str else _value(override, text)


def _value(override: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except _NOT_YAML:
        raise VqtrtError(f"--set {override!r}: {text!r} is not a valid YAML value") from None
    return _number(value) if isinstance(value, str) else value


def _number(text: str) -> str | float:
    """YAML 1.1 reads `1e-4` as text; everyone who types it means the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {key!r}{_suggestion(problem['loc'])}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {problem['input']!r})" if key else message


def _group(location: Sequence[int | str]) -> type[BaseModel] | None:
    """The settings that stand at a place in the config, if there are such."""
    model: type[BaseModel] = Config
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if get_origin(annotation) is types.UnionType:
            annotation = get_args(annotation)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model


def _suggestion(location: tuple[int | str, ...]) -> str:
    model = _group(location[:-1])
    if model is None:
        return ""
    known = list(model.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean {'.'.join(map(str, [*location[:-1], close[0]]))!r}?"
    return f"; known here: {', '.join(known)}"
