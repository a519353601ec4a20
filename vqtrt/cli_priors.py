"""The commands about priors: `train-prior`, `sample` and `bench sample`."""

from pathlib import Path
from typing import Annotated

import typer

from vqtrt.cli_options import (
    Engine,
    EngineName,
    Json,
    Model,
    Precision,
    PrecisionName,
    Resume,
    Settings,
    Workers,
    find,
    main_process,
    open_model,
    worker_count,
)
from vqtrt.errors import VqtrtError

PriorName = Annotated[str, typer.Option(help="Name of the prior.")]
Shape = Annotated[str | None, typer.Option(help="Grid of codes, HxW (default: as trained).")]


def train_prior(
    recipe: Annotated[str, typer.Argument(help="Recipe name or YAML file.")] = "pixelcnn",
    data: Annotated[
        str | None, typer.Option(help="Codes file, or images, which are encoded first.")
    ] = None,
    model: Model = None,
    name: Annotated[str | None, typer.Option(help="Name of the prior (default: RECIPE).")] = None,
    settings: Settings = None,
    resume: Resume = False,
    workers: Workers = None,
) -> None:
    """Train a prior over a run's codes, into RUN/priors/NAME."""
    from vqtrt import terminal
    from vqtrt.training.prior_start import plan_prior

    found = find(model)
    overrides = [*(settings or []), *([f"data.path={data}"] if data else [])]
    with terminal.counting("encoding") as counter:
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
    from vqtrt.training.prior import train_prior as train

    bar = terminal.TrainingBar()
    try:
        run = train(*planned, bar, resume=resume)
    finally:
        bar.stop()
    if main_process():
        terminal.note(f"trained {run.path}; next: vqtrt export {found.run}")


def sample(
    prior: PriorName = "pixelcnn",
    num: Annotated[int, typer.Option(min=1, help="How many samples.")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="Folder for pictures, or a codes file, .npy.")
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="PNG to write with all samples.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Class, by number or name (default: all in turn).")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 for the most likely codes.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most likely codes.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest codes with this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed, other samples.")] = 0,
    shape: Shape = None,
    prefix: Annotated[
        Path | None, typer.Option(help="Codes file whose first --rows are kept.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows of codes to keep of --prefix.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples drawn at once.")] = 16,
    model: Model = None,
    engine: Engine = EngineName.AUTO,
    precision: Precision = PrecisionName.FP32,
    as_json: Json = False,
) -> None:
    """Draw new codes from a prior, and decode them to pictures."""
    from vqtrt import generate, terminal
    from vqtrt.data.grid import check_png
    from vqtrt.sampler import Draw
    from vqtrt.sampling import Request, find_prior, label_number, sample_codes

    if out is None and grid is None:
        raise VqtrtError("nothing to write: pass --out FOLDER, --out codes.npy or --grid PNG")
    if grid is not None:
        check_png(grid)
    found, tokenizer = open_model(model, engine, batch_size, precision)
    facts = find_prior(tokenizer.engine, prior)
    request = Request(
        prior=prior,
        num=num,
        draw=Draw(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        label=label_number(label, facts),
        shape=parse_shape(shape),
        prefix=None if prefix is None else generate.read_prefix(prefix, tokenizer),
        rows=rows,
    )
    with terminal.counting("sampling") as counter:
        samples = sample_codes(tokenizer.engine, request, batch_size=batch_size, progress=counter)
    if out is not None and out.suffix == ".npy":
        generate.write_codes(tokenizer, request, samples, out, found)
    elif out is not None:
        generate.write_pictures(tokenizer, samples, out)
    if grid is not None:
        lines = generate.write_grid(tokenizer, samples, grid)
        if lines:
            names = ", ".join(facts.classes[line] for line in lines)
            terminal.note(f"classes of the grid, from the top: {names}")
    written = [str(path) for path in (out, grid) if path is not None]
    terminal.note(f"wrote {num} samples: {', '.join(written)}")
    if as_json:
        terminal.show({"num": num, "prior": prior, "seed": seed, "written": written}, True)


def bench_sample(
    shape: Shape = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples drawn at once.")] = 16,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Run or bundle; without it, random weights."),
    ] = None,
    prior: PriorName = "pixelcnn",
    engine: Engine = EngineName.AUTO,
    precision: Precision = PrecisionName.FP32,
    layers: Annotated[int, typer.Option(min=2, help="Layers of random weights.")] = 15,
    channels: Annotated[int, typer.Option(min=1, help="Channels of random weights.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the median counts.")] = 3,
    as_json: Json = False,
) -> None:
    """Cost of drawing a batch of codes, in forward passes; the naive loop beside it."""
    from vqtrt import bench_sample as module
    from vqtrt import terminal
    from vqtrt.sampling import find_prior

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
            opened = open_model(model, engine, batch_size, precision)[1].engine
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
