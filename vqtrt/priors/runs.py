"""A prior inside a run: the folder RUN/priors/NAME, which is laid out like a run of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from vqtrt.config.audio import SpeechPriorConfig
from vqtrt.config.images import PriorConfig
from vqtrt.config.location import CONFIG, WEIGHTS
from vqtrt.config.settings import Settings, read_settings
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import PriorInfo, file_sha256
from vqtrt.models.weights import load_weights
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.wavenet import WaveNetPrior

C = TypeVar("C", bound=Settings)
M = TypeVar("M", bound=nn.Module)
P = TypeVar("P", bound="PriorFolder")


class PriorFolder:
    """What priors of both kinds have in common."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.path / WEIGHTS

    def _loaded(self, prior: M) -> M:
        if not self.weights.is_file():
            raise VqtrtError(f"{self.path} has no weights yet: train it with --resume")
        load_weights(prior, self.weights)
        return prior.eval().requires_grad_(False)


class PriorRun(PriorFolder):
    """The folder of a PixelCNN prior and its config."""

    def __init__(self, path: Path, config: PriorConfig) -> None:
        super().__init__(path)
        self.config = config

    @classmethod
    def open(cls, path: Path) -> "PriorRun":
        """Read the config of an existing prior."""
        return cls(path, _read(PriorConfig, path))

    def load(self) -> PixelCNN:
        """The trained prior, in evaluation mode, on the CPU."""
        return self._loaded(PixelCNN(self.config.prior))

    def facts(self) -> PriorInfo:
        """What goes into the bundle."""
        prior, codes = self.config.prior, self.config.codes
        return PriorInfo(
            codebook_size=prior.codebook_size,
            num_codebooks=prior.num_codebooks,
            height=codes.height,
            width=codes.width,
            reach=prior.reach(prior.kernel or 3),
            classes=codes.classes,
            weights_sha256=file_sha256(self.weights),
            tokenizer_sha256=codes.weights_sha256,
        )


class SpeechPriorRun(PriorFolder):
    """The folder of a WaveNet prior and its config."""

    def __init__(self, path: Path, config: SpeechPriorConfig) -> None:
        super().__init__(path)
        self.config = config

    @classmethod
    def open(cls, path: Path) -> "SpeechPriorRun":
        """Read the config of an existing prior."""
        return cls(path, _read(SpeechPriorConfig, path))

    def load(self) -> WaveNetPrior:
        """The trained prior, in evaluation mode, on the CPU."""
        return self._loaded(WaveNetPrior(self.config.prior))

    def facts(self) -> PriorInfo:
        """What goes into the bundle."""
        prior, codes = self.config.prior, self.config.codes
        return PriorInfo(
            kind="wavenet",
            codebook_size=prior.codebook_size,
            num_codebooks=1,
            width=self.config.data.crop,
            reach=prior.receptive_field,
            classes=codes.classes,
            weights_sha256=file_sha256(self.weights),
            tokenizer_sha256=codes.weights_sha256,
        )


def trained_priors(run: Path) -> dict[str, PriorRun]:
    """The priors of a run on images that have weights, by name."""
    return _trained(run, PriorRun.open)


def trained_speech_priors(run: Path) -> dict[str, SpeechPriorRun]:
    """The priors of a run on speech that have weights, by name."""
    return _trained(run, SpeechPriorRun.open)


def _trained(run: Path, open_prior: Callable[[Path], P]) -> dict[str, P]:
    """Folders without weights are passed over unread: begun, or of another program."""
    weights = sorted((run / "priors").glob(f"*/{WEIGHTS}"))
    folders = [path.parent for path in weights if (path.parent / CONFIG).is_file()]
    return {folder.name: open_prior(folder) for folder in folders}


def _read(kind: type[C], path: Path) -> C:
    if not (path / CONFIG).is_file():
        raise VqtrtError(f"{path} holds no prior; `vqtrt train-prior` makes one")
    return read_settings(kind, path / CONFIG)
