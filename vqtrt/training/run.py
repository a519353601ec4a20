"""A run: the folder that training writes and everything later reads.

config.yaml          all settings, as `vqtrt.config.Config`
model.safetensors    the weights of the newest checkpoint
metrics.jsonl        a JSON object a line: training figures, and evaluations
checkpoints/         what `--resume` continues from
reconstructions/     a PNG an evaluation: originals over reconstructions
tensorboard/         the same figures for TensorBoard
bundle/              what `vqtrt export` writes
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqtrt.config import Config, load_config
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.models.vqvae import VQVAE
from vqtrt.settings import Settings
from vqtrt.training.checkpoints import load_weights, write_text

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def open_folder(
    path: Path, config: Settings, accelerator: "Accelerator", *, resume: bool, option: str
) -> Iterator[None]:
    """A run's folder with its settings: new or empty, or with `resume` one that exists.

    The main process makes it, the others wait. A new one goes again if what is done inside the
    context fails. `option` of the command line would name another folder.
    """
    main = accelerator.is_main_process
    if main and resume:
        write_text(path / "config.yaml", config.to_yaml())
    elif main:
        _create(path, config, option)
    accelerator.wait_for_everyone()
    try:
        yield
    except BaseException:
        if main and not resume:
            _discard(path)
        raise


def _discard(path: Path) -> None:
    """Remove a run that holds its settings alone."""
    if [entry.name for entry in path.iterdir()] == ["config.yaml"]:
        (path / "config.yaml").unlink()
        path.rmdir()


def _create(path: Path, config: Settings, option: str) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise VqtrtError(
            f"{path} exists already: pass --resume to continue it, or another {option}"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / "config.yaml", config.to_yaml())
    except OSError as error:
        raise unwritable(path, error) from error


class Run:
    """A run's folder and its config."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create(cls, path: Path, config: Config) -> "Run":
        """Start a run in a new or empty folder."""
        _create(path, config, "--out")
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Read the config of an existing run."""
        if not (path / "config.yaml").is_file():
            raise VqtrtError(f"{path} is no run: it has no config.yaml; `vqtrt train` makes one")
        return cls(path, load_config(path / "config.yaml"))

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.path / "model.safetensors"

    def load_model(self) -> VQVAE:
        """The trained model, in evaluation mode, on the CPU."""
        if not self.weights.is_file():
            raise VqtrtError(
                f"{self.path} has no weights yet: `vqtrt train --resume --out {self.path}` goes on"
            )
        model = VQVAE(self.config.model)
        load_weights(model, self.weights)
        return model.eval().requires_grad_(False)


class MetricsFile:
    """`metrics.jsonl`: appended to as training goes."""

    def __init__(self, path: Path, start: int) -> None:
        """Open for appending after step `start`; lines of later steps are dropped."""
        kept = []
        if start and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if _step(line) <= start:
                    kept.append(line + "\n")
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, figures: dict[str, Any]) -> None:
        """Append one line and hand it to the system, so that `tail -f` shows it."""
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step(line: str) -> float:
    """The step of a line. A crash can tear the last one; it belongs to a step that is redone."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf
