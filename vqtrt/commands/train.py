"""`train` and `train-prior`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtrt.commands import terminal
from vqtrt.commands.complete import prior_recipes, recipes
from vqtrt.commands.options import (
    Model,
    SpeakerPattern,
    TrainOptions,
    Workers,
    expanded,
    find,
    main_process,
    require_training,
    worker_count,
)
from vqtrt.commands.outcome import skippable
from vqtrt.data.urls import public_url

if TYPE_CHECKING:
    from vqtrt.commands.bars import TrainingBar


@expanded
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Recipe name or YAML file (default: shapes, which needs no data).",
            autocompletion=recipes,
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Training data, in place of the recipe's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder (default: runs/RECIPE).")
    ] = None,
    speaker_pattern: SpeakerPattern = None,
    options: TrainOptions = TrainOptions(),
) -> None:
    """Train a VQ-VAE on images or audio."""
    from vqtrt.config.images import Config
    from vqtrt.training.start import plan

    overrides = options.overrides(path=data, speaker_pattern=speaker_pattern)
    config, path = plan(recipe, out, overrides, resume=options.resume)
    require_training()
    _tell(f"training {config.recipe} on {public_url(config.data.path)}, into {path}")
    from vqtrt.training.start import train_planned

    with _training_bar() as bar, skippable():
        train_planned(config, path, bar, resume=options.resume)
    baseline = isinstance(config, Config) and config.model.likelihood.latents != "codes"
    following = f"eval DATA --model {path} --bits-per-dim" if baseline else f"export {path}"
    _tell(f"trained {path}; next: vqtrt {following}")


@expanded
def train_prior(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Recipe or YAML file (default: pixelcnn, or wavenet for audio).",
            autocompletion=prior_recipes,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Codes file; or images or recordings, which are encoded first."),
    ] = None,
    model: Model = None,
    name: Annotated[str | None, typer.Option(help="Name of the prior (default: RECIPE).")] = None,
    options: TrainOptions = TrainOptions(),
    workers: Workers = None,
) -> None:
    """Train a prior over a model's codes, into RUN/priors/NAME."""
    from vqtrt.commands.bars import counting
    from vqtrt.data.rejects import reject_kinds
    from vqtrt.data.selection import in_words

    require_training()
    from vqtrt.training.prior_start import plan_prior, train_planned

    found = find(model)
    with counting("encoding") as counter, skippable():
        planned = plan_prior(
            found,
            recipe,
            name,
            options.overrides(path=data),
            resume=options.resume,
            workers=worker_count(workers),
            progress=counter,
        )
    _tell(f"training {planned.path.name} on {planned.codes.path}, into {planned.path}")
    if rejected := [(each.file, each.reason) for each in planned.codes.rejected]:
        kinds = in_words(reject_kinds(rejected))
        where = planned.codes.path.with_suffix(".json")
        _tell(f"skipped {len(rejected)} files that cannot be read: {kinds}; see {where}")
    with _training_bar() as bar:
        run = train_planned(planned, bar, resume=options.resume)
    _tell(f"trained {run.path}; next: vqtrt export {found.run}")


@contextmanager
def _training_bar() -> "Iterator[TrainingBar]":
    from vqtrt.commands.bars import TrainingBar

    bar = TrainingBar()
    try:
        yield bar
    finally:
        bar.stop()


def _tell(text: str) -> None:
    """A note, once for all processes of a training."""
    if main_process():
        terminal.note(text)
