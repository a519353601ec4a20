"""What `vqtrt train` is about to do: which settings, into which folder; and then does it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqtrt.config.audio import SpeechConfig
from vqtrt.config.images import Config, load_any_config
from vqtrt.config.location import CONFIG, RUNS, newest_run, require_run
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.training.loop import Watcher

_DEFAULT_RECIPE = "shapes"


def plan(
    recipe: str | None, out: Path | None, overrides: Sequence[str], *, resume: bool
) -> tuple[Config | SpeechConfig, Path]:
    """The config and the run folder; with `resume`, those of a run that exists.

    A new run without `out` goes to runs/RECIPE, or runs/RECIPE-2 and so on. A run to resume is
    `out`, or the newest under ./runs (of the recipe, where one is named); its own settings hold,
    with the overrides on top, but its model may not change. Where both are named and there is no
    run yet, it is begun: a job that is put back into a queue has one command.
    """
    if resume and not (recipe and out and not (out / "config.yaml").is_file()):
        named = load_any_config(recipe).recipe if recipe else None
        return _existing(named, out, overrides)
    config = load_any_config(recipe or _DEFAULT_RECIPE, overrides)
    return config, out or _free(RUNS / config.recipe)


def _existing(
    recipe: str | None, out: Path | None, overrides: Sequence[str]
) -> tuple[Config | SpeechConfig, Path]:
    path = out or newest_run(recipe)
    if path is None:
        which = f"{RUNS} holds no run of {recipe}" if recipe else f"{RUNS} holds no run"
        raise VqtrtError(f"nothing to resume: {which}; name one with --out")
    if not (path / CONFIG).is_file():
        raise VqtrtError(f"nothing to resume: {path} holds no run; train without --resume")
    require_run(path)
    before = load_any_config(path / CONFIG)
    config = load_any_config(path / CONFIG, overrides)
    if config.model != before.model:
        raise VqtrtError(f"{path}: a resumed run keeps its model; leave out --set model.…")
    return config, path


def _free(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def train_planned(
    config: Config | SpeechConfig, path: Path, watcher: "Watcher", *, resume: bool = False
) -> None:
    """Train the model of `config`, of images or of audio, into the run folder `path`."""
    if isinstance(config, SpeechConfig):
        from vqtrt.training.audio import train_speech

        train_speech(config, path, watcher, resume=resume)
    else:
        from vqtrt.training.images import train

        train(config, path, watcher, resume=resume)
