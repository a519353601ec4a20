"""Runs as training begins them."""

from pathlib import Path

from vqtrt.config.images import Config
from vqtrt.models.runs import ImageRun


def new_run(path: Path, config: Config) -> ImageRun:
    """A run without weights: a folder with its settings."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config.to_yaml())
    return ImageRun.open(path)
