"""Settings that models of images and of speech have in common."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vqtrt.config.settings import Settings
from vqtrt.data.selection import Selection
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import MAX_CODES, check_counts


class QuantizerConfig(Settings):
    """The codebook (paper, section 3)."""

    kind: Literal["ema", "gradient", "cosine", "simvq"] = "ema"
    """`gradient`: the codebook loss of equation 3. `ema`: moving averages, appendix A.1. `cosine`:
    unit vectors and moving averages. `simvq`: a learned map of frozen random vectors, for large
    codebooks."""
    codebook_size: int = Field(512, ge=2, le=MAX_CODES)
    """K, entries of a codebook."""
    dim: int = Field(64, ge=1, le=4096)
    """D, length of an entry."""
    num_codebooks: int = Field(1, ge=1, le=64)
    """C, codes at a position, each with a codebook of its own."""
    beta: float = Field(0.25, ge=0)
    """Weight of the commitment loss; results hardly vary from 0.1 to 2.0 (section 3.2)."""
    estimator: Literal["straight-through", "rotation"] = "straight-through"
    """How gradients pass the quantizer: `straight-through` (section 3.2), or `rotation`, the
    rotation trick (arXiv 2410.06424), which needs vectors of at least two numbers."""
    decay: float = Field(0.99, gt=0, lt=1)
    """Decay of the moving averages (appendix A.1); step t, from 0, has (1 + t) / (10 + t) until
    that reaches it."""
    epsilon: float = Field(1e-5, gt=0)
    """Laplace smoothing of the counts, as in the authors' Sonnet code."""
    restart_below: float = Field(0.03, ge=0, lt=1)
    """A code used less than this share of an even use is restarted from the data; 0 for never."""

    @model_validator(mode="after")
    def _countable(self) -> "QuantizerConfig":
        check_counts(self.codebook_size, self.num_codebooks)
        if self.estimator == "rotation" and self.dim == 1:
            raise ValueError("estimator rotation needs dim of 2 or more: a number has no angle")
        return self


class TrainConfig(Settings):
    """How it is trained."""

    steps: int = Field(10_000, ge=1)
    """Steps of the optimizer (Adam)."""
    batch_size: int = Field(32, ge=1)
    """Images or recordings per step, over all processes together."""
    learning_rate: float = Field(2e-4, gt=0)
    """Learning rate of Adam, at its highest; see `schedule`."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine`: half a cosine from the learning rate to 0 over all steps."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the rate rises to `learning_rate`."""
    clip_norm: float | None = Field(None, gt=0)
    """Gradients of a larger norm are scaled down to this norm; None leaves them alone."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the weights, the batches, the held-out items and the restarts of codes."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the convolutions; distances and losses stay in float32. `fp16` needs a GPU."""
    log_every: int = Field(50, ge=1)
    """Steps between two lines of figures."""
    evaluate_every: int = Field(1000, ge=1)
    """Steps between two evaluations; there is also one at the end."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between two checkpoints; there is also one at the end."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many checkpoints are kept, the newest first."""

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no(cls, value: object) -> object:
        # YAML 1.1 reads a bare `no` as false.
        return "no" if value is False else value


class FilesConfig(Settings):
    """Which files of a folder count, and what to do about those that cannot be read."""

    include: tuple[str, ...] = ()
    """Patterns, one of which a file has to match; empty for all."""
    exclude: tuple[str, ...] = ()
    """Patterns of files and folders that are left out."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a file that cannot be read: stop, or skip it."""

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            Selection(include=value)
        except VqtrtError as error:
            raise ValueError(str(error).removeprefix("--include ")) from None
        return value

    @property
    def selection(self) -> Selection:
        """The patterns, ready for a folder."""
        return Selection(self.include, self.exclude)


class CachedFilesConfig(FilesConfig):
    """How files are read while a tokenizer is trained on them."""

    workers: int = Field(2, ge=1, le=256)
    """Threads that read files, each one at a time."""
    cache_mib: int = Field(1024, ge=0)
    """Memory for decoded files in MiB. Images stay in memory if all of them fit, recordings (as
    16 bit) up to this size; 0 for never."""


class PriorDataConfig(FilesConfig):
    """What a prior is trained on."""

    path: str = "shapes"
    """A codes file, or images that are encoded first."""
    holdout: int = Field(1000, ge=1)
    """Rows set aside for evaluation, drawn by seed; at most a tenth of the data."""
    conditional: bool = True
    """Condition on the data's labels, where it has any."""


class VersionedSettings(Settings):
    """What a whole `config.yaml` begins with."""

    format_version: Literal[1] = 1
    """Version of the format of `config.yaml`."""


class RunSettings(VersionedSettings):
    """What all runs have, beside their model and data."""

    recipe: str = Field("custom", pattern=r"^\w[\w.-]*$")
    """Name of the run and the bundle, and of the default run folder: letters, digits, `_`, `.` and
    `-`, the first not `.` or `-`."""
    train: TrainConfig = TrainConfig()


class ModelledCodes(Settings):
    """What is known of the codes that a prior models; filled in from them when it is trained."""

    classes: tuple[str, ...] = ()
    """Names of the labels or speakers that the prior is conditioned on; empty for none."""
    weights_sha256: str = ""
    """Of the tokenizer that made the codes."""
