"""A trained run, read: its folder, its config and its weights.

Training writes a run (`training/run.py` says what lies in it).
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, Self, TypeVar

from torch import nn

from vqtrt.config.audio import SpeechConfig
from vqtrt.config.images import Config, load_any_config, load_config, load_speech_config
from vqtrt.config.location import CONFIG, WEIGHTS
from vqtrt.errors import VqtrtError
from vqtrt.models.audio import SpeechVQVAE
from vqtrt.models.image import VQVAE
from vqtrt.models.image_likelihood import LikelihoodModel, build_likelihood_model
from vqtrt.models.weights import load_weights

C = TypeVar("C", bound=Config | SpeechConfig)
M = TypeVar("M", bound=nn.Module)


class TrainedRun(ABC, Generic[C]):
    """What runs of both modalities have in common."""

    def __init__(self, path: Path, config: C) -> None:
        self.path = path
        self.config = config

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the config of a run."""
        if not (path / CONFIG).is_file():
            raise VqtrtError(f"{path} is no run: it has no {CONFIG}; `vqtrt train` makes one")
        return cls(path, cls._read(path / CONFIG))

    @staticmethod
    @abstractmethod
    def _read(path: Path) -> C:
        """The config in a file."""

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.path / WEIGHTS

    def _loaded(self, model: M) -> M:
        if not self.weights.is_file():
            raise VqtrtError(
                f"{self.path} has no weights yet: `vqtrt train --resume --out {self.path}` goes on"
            )
        load_weights(model, self.weights)
        return model.eval().requires_grad_(False)


class ImageRun(TrainedRun[Config]):
    """A run on images."""

    @staticmethod
    def _read(path: Path) -> Config:
        return load_config(path)

    def load_model(self) -> VQVAE:
        """The trained model, in evaluation mode, on the CPU.

        Raises `VqtrtError` for a baseline, which has no codes.
        """
        if (latents := self.config.model.likelihood.latents) != "codes":
            raise VqtrtError(
                f"{self.path} is a baseline without codes (model.likelihood.latents: {latents}); "
                "`vqtrt eval --bits-per-dim` compares it with others"
            )
        return self._loaded(VQVAE(self.config.model))

    def load_likelihood(self) -> LikelihoodModel:
        """The trained model as one with a likelihood, in evaluation mode, on the CPU.

        Raises `VqtrtError` if its head has none.
        """
        if self.config.model.likelihood.head == "mse":
            raise VqtrtError(
                f"{self.path} has no likelihood: it was trained with model.likelihood.head: mse; "
                "train one with `vqtrt train cifar10-likelihood-vqvae`, or set the head to "
                "categorical"
            )
        return self._loaded(build_likelihood_model(self.config.model))


class AudioRun(TrainedRun[SpeechConfig]):
    """A run on audio."""

    @staticmethod
    def _read(path: Path) -> SpeechConfig:
        return load_speech_config(path)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio that the model takes, in Hz."""
        return self.config.data.preprocessing.sample_rate

    def load_model(self) -> SpeechVQVAE:
        """The trained model, in evaluation mode, on the CPU."""
        return self._loaded(SpeechVQVAE(self.config.model, self.sample_rate))


def is_audio_run(path: Path) -> bool:
    """Whether a folder is a run on audio."""
    config = path / CONFIG
    return config.is_file() and isinstance(load_any_config(config), SpeechConfig)
