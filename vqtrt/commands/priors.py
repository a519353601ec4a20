"""The commands about priors: `train-prior`, `sample` and `bench sample`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtrt.commands.options import (
    Exclude,
    Include,
    Json,
    Model,
    Resume,
    Settings,
    TrainOnError,
    Workers,
    file_settings,
    find,
    main_process,
    open_model,
    open_named,
    refuse,
    skippable,
    with_engine,
    worker_count,
)
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.audio.sampler import ClipRequest
    from vqtrt.config.location import ModelLocation
    from vqtrt.engines.base import Engine as OpenedEngine
    from vqtrt.images.sample import Request
    from vqtrt.images.tokenizer import ImageTokenizer

PriorName = Annotated[str, typer.Option(help="Name of the prior.")]
Shape = Annotated[str | None, typer.Option(help="Grid of codes, HxW (default: as trained).")]


def train_prior(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Recipe or YAML file (default: pixelcnn, or wavenet for speech)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Codes file, or images or recordings, which are encoded first."),
    ] = None,
    model: Model = None,
    name: Annotated[str | None, typer.Option(help="Name of the prior (default: RECIPE).")] = None,
    include: Include = None,
    exclude: Exclude = None,
    on_error: TrainOnError = None,
    settings: Settings = None,
    resume: Resume = False,
    workers: Workers = None,
) -> None:
    """Train a prior over a run's codes, into RUN/priors/NAME."""
    from vqtrt.commands import terminal
    from vqtrt.data.rejects import reject_kinds
    from vqtrt.data.selection import in_words
    from vqtrt.training.prior_start import plan_prior, train_planned

    found = find(model)
    named = {"path": data, "on_error": on_error}
    given = [f"data.{key}={value}" for key, value in named.items() if value]
    overrides = [*(settings or []), *given]
    overrides += file_settings(include, exclude)
    with terminal.counting("encoding") as counter, skippable():
        planned = plan_prior(
            found,
            recipe,
            name,
            overrides,
            resume=resume,
            workers=worker_count(workers),
            progress=counter,
        )
    if main_process():
        terminal.note(f"training {planned.path.name} on {planned.codes.path}, into {planned.path}")
        rejected = [(each.file, each.reason) for each in planned.codes.rejected]
        if rejected:
            kinds = in_words(reject_kinds(rejected))
            where = planned.codes.path.with_suffix(".json")
            terminal.note(
                f"skipped {len(rejected)} files that cannot be read: {kinds}; see {where}"
            )
    bar = terminal.TrainingBar()
    try:
        run = train_planned(planned, bar, resume=resume)
    finally:
        bar.stop()
    if main_process():
        terminal.note(f"trained {run.path}; next: vqtrt export {found.run}")


@with_engine
def sample(
    prior: Annotated[
        str | None,
        typer.Option(help="Name of the prior (default: pixelcnn, or wavenet for speech)."),
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="How many samples.")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="Folder for pictures or wavs, or a codes file, .npy.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 for the most likely codes.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k most likely codes.")] = None,
    top_p: Annotated[
        float, typer.Option(help="Sample from the fewest codes with this share.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed, other samples.")] = 0,
    grid: Annotated[
        Path | None, typer.Option(help="Images: PNG to write with all samples.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Images: class, by number or name (default: all in turn).")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Images: grid of codes, HxW (default: as trained).")
    ] = None,
    prefix: Annotated[
        Path | None, typer.Option(help="Images: codes file whose first --rows are kept.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=0, help="Images: rows of codes to keep of --prefix.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Speech: length of a clip (default: 2).")
    ] = None,
    speaker: Annotated[
        str | None, typer.Option(help="Speech: who speaks, by name (default: all in turn).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples drawn at once.")] = 16,
    model: Model = None,
    engine: EngineOptions = AUTO,
    as_json: Json = False,
) -> None:
    """Sample new codes from a prior, and decode them to pictures or wavs."""
    from vqtrt.audio.sampler import ClipRequest
    from vqtrt.commands import terminal
    from vqtrt.data.grid import check_png
    from vqtrt.engines.priors import find_prior
    from vqtrt.formats.codes_writer import check_codes_out
    from vqtrt.formats.sampling import SamplingParams
    from vqtrt.images.sample import Request, label_number
    from vqtrt.images.sample_files import read_prefix
    from vqtrt.images.tokenizer import ImageTokenizer
    from vqtrt.system.atomic import check_folder

    if out is None and grid is None:
        raise VqtrtError("nothing to write: pass --out FOLDER, --out codes.npy or --grid PNG")
    if grid is not None:
        check_png(grid)
    if out is not None:
        (check_codes_out if out.suffix == ".npy" else check_folder)(out)
    found, opened = open_named(model, engine)
    draw = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if opened.speech is None:
        refuse({"seconds": seconds, "speaker": speaker}, "speech", "images")
        tokenizer, name = ImageTokenizer(opened, batch_size=batch_size), prior or "pixelcnn"
        request = Request(
            prior=name,
            num=num,
            draw=draw,
            label=label_number(label, find_prior(opened, name)),
            shape=parse_shape(shape),
            prefix=None if prefix is None else read_prefix(prefix, tokenizer),
            rows=rows or 0,
        )
        _sample_images(found, tokenizer, request, out, grid)
    else:
        only = {"grid": grid, "label": label, "shape": shape, "prefix": prefix, "rows": rows}
        refuse(only, "images", "speech")
        length, name = 2.0 if seconds is None else seconds, prior or "wavenet"
        assert out is not None  # noqa: S101 - for mypy: a grid was refused
        clips = ClipRequest(name, num, length, draw, speaker)
        _sample_clips(found, opened, clips, out, batch_size)
    written = [str(path) for path in (out, grid) if path is not None]
    terminal.note(f"wrote {num} samples: {', '.join(written)}")
    if as_json:
        terminal.show({"num": num, "prior": name, "seed": seed, "written": written}, True)


def _sample_images(
    model: "ModelLocation",
    tokenizer: "ImageTokenizer",
    request: "Request",
    out: Path | None,
    grid: Path | None,
) -> None:
    from vqtrt.commands import terminal
    from vqtrt.images import sample_files as generate
    from vqtrt.images.sample import sample_codes

    engine, size = tokenizer.engine, tokenizer.batch_size
    with terminal.counting("sampling") as counter:
        samples = sample_codes(engine, request, batch_size=size, progress=counter)
    if out is not None and out.suffix == ".npy":
        generate.write_codes(tokenizer, request, samples, out, model)
    elif out is not None:
        generate.write_pictures(tokenizer, samples, out)
    if grid is not None and (lines := generate.write_grid(tokenizer, samples, grid)):
        classes = engine.priors[request.prior].classes
        names = ", ".join(classes[line] for line in lines)
        terminal.note(f"classes of the grid, from the top: {names}")


def _sample_clips(
    model: "ModelLocation",
    engine: "OpenedEngine",
    request: "ClipRequest",
    out: Path,
    batch_size: int,
) -> None:
    from vqtrt.audio.decode import decode_codes
    from vqtrt.audio.sample_files import sampled_codes, write_clip_codes
    from vqtrt.audio.sampler import sample_clips
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.commands import terminal

    with terminal.counting("sampling") as counter:
        samples = sample_clips(engine, request, batch_size=batch_size, progress=counter)
    codes = sampled_codes(engine, request, samples, model, out)
    if out.suffix == ".npy":
        write_clip_codes(codes)
        return
    decoder = AudioTokenizer(engine, batch_size=batch_size, seed=request.draw.seed)
    with terminal.counting("decoding") as counter:
        decode_codes(decoder, codes, out, keep=False, progress=counter)


@with_engine
def bench_sample(
    shape: Shape = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples drawn at once.")] = 16,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Run or bundle; without it, random weights."),
    ] = None,
    prior: PriorName = "pixelcnn",
    engine: EngineOptions = AUTO,
    layers: Annotated[int, typer.Option(min=2, help="Layers of random weights.")] = 15,
    channels: Annotated[int, typer.Option(min=1, help="Channels of random weights.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the median counts.")] = 3,
    as_json: Json = False,
) -> None:
    """Cost of drawing a batch of codes, in forward passes; the naive loop beside it."""
    from vqtrt.bench import sample as module
    from vqtrt.commands import terminal
    from vqtrt.engines.priors import find_prior

    if model is None:
        terminal.note("making a prior of random weights")
    with terminal.counting("measuring") as counter:
        if model is None:
            figures = module.bench_random(
                parse_shape(shape) or (8, 8),
                batch_size=batch_size,
                repeat=repeat,
                layers=layers,
                channels=channels,
                progress=counter,
            )
        else:
            opened = open_model(model, engine, batch_size)[1].engine
            facts = find_prior(opened, prior)
            figures = module.bench_sample(
                opened,
                prior,
                shape=parse_shape(shape) or (facts.height, facts.width),
                batch_size=batch_size,
                repeat=repeat,
                progress=counter,
            )
    terminal.show(figures, as_json)


def parse_shape(text: str | None) -> tuple[int, int] | None:
    """`HxW` as two numbers."""
    if text is None:
        return None
    height, cross, width = text.lower().partition("x")
    numbers = cross and height.isdecimal() and width.isdecimal()
    if not numbers or not (int(height) and int(width)):
        raise VqtrtError(f"shape {text!r}: expected HxW in codes, such as 8x8")
    return int(height), int(width)
