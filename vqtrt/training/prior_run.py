"""A prior inside a run: the folder RUN/priors/NAME, which is laid out like a run of its own."""

from pathlib import Path

from vqtrt.bundle import PriorFacts, file_sha256
from vqtrt.config import PriorConfig
from vqtrt.errors import VqtrtError
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.settings import read_settings
from vqtrt.training.checkpoints import load_weights


class PriorRun:
    """A prior's folder and its config."""

    def __init__(self, path: Path, config: PriorConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def open(cls, path: Path) -> "PriorRun":
        """Read the config of an existing prior."""
        if not (path / "config.yaml").is_file():
            raise VqtrtError(f"{path} holds no prior; `vqtrt train-prior` makes one")
        return cls(path, read_settings(PriorConfig, path / "config.yaml"))

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.path / "model.safetensors"

    def load(self) -> PixelCNN:
        """The trained prior, in evaluation mode, on the CPU."""
        if not self.weights.is_file():
            raise VqtrtError(f"{self.path} has no weights yet: train it with --resume")
        prior = PixelCNN(self.config.prior)
        load_weights(prior, self.weights)
        return prior.eval().requires_grad_(False)

    def facts(self) -> PriorFacts:
        """What goes into the bundle."""
        prior, codes = self.config.prior, self.config.codes
        return PriorFacts(
            codebook_size=prior.codebook_size,
            num_codebooks=prior.num_codebooks,
            height=codes.height,
            width=codes.width,
            reach=prior.reach(prior.kernel or 3),
            classes=codes.classes,
            weights_sha256=file_sha256(self.weights),
            tokenizer_sha256=codes.weights_sha256,
        )


def trained_priors(run: Path) -> dict[str, PriorRun]:
    """The priors of a run that have weights, by name."""
    configs = sorted((run / "priors").glob("*/config.yaml"))
    opened = {path.parent.name: PriorRun.open(path.parent) for path in configs}
    return {name: prior for name, prior in opened.items() if prior.weights.is_file()}
