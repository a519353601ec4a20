"""`vqtrt train` of either kind of settings."""

from pathlib import Path

from vqtrt.config.audio import SpeechConfig
from vqtrt.config.images import Config
from vqtrt.training.loop import Watcher


def train_any(
    config: Config | SpeechConfig, path: Path, watcher: Watcher, *, resume: bool = False
) -> None:
    """Train the model of `config`, of images or of speech, into the run folder `path`."""
    if isinstance(config, SpeechConfig):
        from vqtrt.training.audio import train_speech

        train_speech(config, path, watcher, resume=resume)
    else:
        from vqtrt.training.images import train

        train(config, path, watcher, resume=resume)
