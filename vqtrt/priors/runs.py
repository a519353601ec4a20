"""A prior inside a run: the folder RUN/priors/NAME, which is laid out like a run of its own."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from torch import nn

from vqtrt.config.audio import SpeechPriorConfig
from vqtrt.config.images import PriorConfig
from vqtrt.config.location import CONFIG, WEIGHTS
from vqtrt.config.settings import read_settings
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import PriorInfo, file_sha256
from vqtrt.models.weights import load_weights
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.wavenet import WaveNetPrior

C = TypeVar("C", PriorConfig, SpeechPriorConfig)
M = TypeVar("M", bound=nn.Module)
P = TypeVar("P", bound="PriorFolder[Any]")


class PriorFolder(ABC, Generic[C]):
    """What priors of both kinds have in common: the folder and its config."""

    settings: type[C]

    def __init__(self, path: Path, config: C) -> None:
        self.path = path
        self.config: C = config

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the config of an existing prior."""
        if not (path / CONFIG).is_file():
            raise VqtrtError(f"{path} holds no prior; `vqtrt train-prior` makes one")
        return cls(path, read_settings(cls.settings, path / CONFIG))

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.path / WEIGHTS

    @abstractmethod
    def load(self) -> nn.Module:
        """The trained prior, in evaluation mode, on the CPU."""

    @abstractmethod
    def info(self) -> PriorInfo:
        """What goes into the bundle."""

    def _info(self, **info: Any) -> PriorInfo:
        prior, codes = self.config.prior, self.config.codes
        return PriorInfo(
            codebook_size=prior.codebook_size,
            classes=codes.classes,
            weights_sha256=file_sha256(self.weights),
            tokenizer_sha256=codes.weights_sha256,
            **info,
        )

    def _loaded(self, prior: M) -> M:
        if not self.weights.is_file():
            raise VqtrtError(f"{self.path} has no weights yet: train it with --resume")
        load_weights(prior, self.weights)
        return prior.eval().requires_grad_(False)


class PriorRun(PriorFolder[PriorConfig]):
    """The folder of a PixelCNN prior and its config."""

    settings = PriorConfig

    def load(self) -> PixelCNN:
        """The trained prior, in evaluation mode, on the CPU."""
        return self._loaded(PixelCNN(self.config.prior))

    def info(self) -> PriorInfo:
        """What goes into the bundle."""
        prior, codes = self.config.prior, self.config.codes
        return self._info(
            num_codebooks=prior.num_codebooks,
            height=codes.height,
            width=codes.width,
            receptive_field=prior.receptive_field(prior.kernel or 3),
        )


class SpeechPriorRun(PriorFolder[SpeechPriorConfig]):
    """The folder of a WaveNet prior and its config."""

    settings = SpeechPriorConfig

    def load(self) -> WaveNetPrior:
        """The trained prior, in evaluation mode, on the CPU."""
        return self._loaded(WaveNetPrior(self.config.prior))

    def info(self) -> PriorInfo:
        """What goes into the bundle."""
        return self._info(
            kind="wavenet",
            num_codebooks=1,
            width=self.config.data.crop,
            receptive_field=self.config.prior.receptive_field,
        )


def trained_priors(run: Path) -> dict[str, PriorRun]:
    """The priors of a run on images that have weights, by name."""
    return _trained(run, PriorRun)


def trained_speech_priors(run: Path) -> dict[str, SpeechPriorRun]:
    """The priors of a run on speech that have weights, by name."""
    return _trained(run, SpeechPriorRun)


def _trained(run: Path, kind: type[P]) -> dict[str, P]:
    """Folders without weights are passed over unread: begun, or of another program."""
    weights = sorted((run / "priors").glob(f"*/{WEIGHTS}"))
    folders = [path.parent for path in weights if (path.parent / CONFIG).is_file()]
    return {folder.name: kind.open(folder) for folder in folders}
