"""The command line. Each command parses its options, calls one function and prints what it gives.

Nothing heavy is imported at the top: `vqtrt --help` answers before torch would have been found.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vqtrt.cli_bench import bench_engine
from vqtrt.cli_options import (
    BatchSize,
    Data,
    Engine,
    EngineName,
    Json,
    Model,
    OnErrorName,
    OnErrorOption,
    Precision,
    PrecisionName,
    Resume,
    Settings,
    Size,
    Split,
    SplitName,
    Workers,
    find,
    main_process,
    open_model,
    open_named,
    require_passed,
    resized,
    skippable,
    worker_count,
)
from vqtrt.cli_priors import bench_sample, sample, train_prior
from vqtrt.errors import Interrupted, VqtrtError, explain
from vqtrt.terminal import Commands, fail

app = typer.Typer(
    cls=Commands,
    help="VQ-VAE from training to deployment: pictures to codes and back, on any engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
bench = typer.Typer(help="Measure how fast it is here.", no_args_is_help=True)
app.add_typer(bench, name="bench")
app.command()(train_prior)
app.command()(sample)
bench.command("sample")(bench_sample)
bench.command("engine")(bench_engine)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="Recipe name or YAML file.")] = None,
    data: Annotated[
        str | None, typer.Option(help="What to train on, instead of the recipe's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/RECIPE).")] = None,
    settings: Settings = None,
    resume: Resume = False,
) -> None:
    """Train a VQ-VAE. Without a recipe: `shapes`, which needs no data."""
    from vqtrt import terminal
    from vqtrt.training.start import plan

    overrides = [*(settings or []), *([f"data.path={data}"] if data else [])]
    config, path = plan(recipe, out, overrides, resume=resume)
    if main_process():
        terminal.note(f"training {config.recipe} on {config.data.path}, into {path}")
    from vqtrt.training.any import train_any

    bar = terminal.TrainingBar()
    try:
        train_any(config, path, bar, resume=resume)
    finally:
        bar.stop()
    if main_process():
        terminal.note(f"trained {path}; next: vqtrt export {path}")


class TargetName(StrEnum):
    """What `--target` takes; the same names as `vqtrt.engines.trt_package.NAMES`."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


@app.command()
def export(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run (default: $VQTRT_MODEL, else the newest under ./runs)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle folder (default: RUN/bundle).")] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(help="Write these graphs, too, beside those of fp32; repeatable."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Verify the written files.")
    ] = True,
    target: Annotated[
        TargetName | None, typer.Option(help="Compile the graphs with this package, too.")
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Engines' batch: least, usual and largest, or one number.")
    ] = "1,16,64",
    size: Annotated[
        str | None, typer.Option(help="Engines' picture size HxW, or three (default: the model's).")
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(help="With tensorrt-rtx, kind of GPU such as 8.9; repeatable (default: any)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's bundle: ONNX graphs and what they need, then verify the files.

    With --target, compile them, too; a bundle in place of the run is compiled as it stands.
    """
    from vqtrt import terminal
    from vqtrt.export.tensorrt import build_engines, engine_options, is_bundle

    precisions = [name.value for name in precision or ()]
    options = engine_options(target.value, batch, size, compute_capability) if target else None
    model, figures = find(run), dict[str, Any]()
    if options is not None and is_bundle(run):
        if out is not None:
            raise VqtrtError(f"--out is for a run, and {run} is a bundle: leave it out")
    else:
        from vqtrt.export.run import export_bundle, verify_bundle

        with terminal.waiting("exporting"):
            model = export_bundle(model, out, precisions)
        terminal.note(f"wrote {model.bundle}")
        if check:
            with terminal.waiting("verifying"):
                figures = verify_bundle(model)
    if options is not None and figures.get("passed", True):
        with terminal.counting("building engines", 100) as counter:
            engines = build_engines(
                model.open_bundle(), options, precisions or ["fp32"], progress=counter
            )
        figures["engines"] = engines
    if figures:
        terminal.show(figures, as_json)
    if "passed" in figures:
        require_passed(figures)


@app.command()
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="Run or bundle (default: $VQTRT_MODEL, else the newest run)."),
    ] = None,
    data: Annotated[str, typer.Argument(help="Images to compare on.")] = "shapes",
    engine: Engine = EngineName.AUTO,
    precision: Precision = PrecisionName.FP32,
    limit: Annotated[int, typer.Option(min=1, help="Compare at most this many images.")] = 10_000,
    workers: Workers = None,
    split: Split = SplitName.TEST,
    as_json: Json = False,
) -> None:
    """Measure that an engine gives the codes and pictures that torch gives."""
    from vqtrt import terminal
    from vqtrt.export.run import images_for, verify_all

    found = find(model)
    with terminal.counting("verifying") as counter:
        batches = images_for(found, data, split.value, limit=limit, workers=worker_count(workers))
        figures = verify_all(
            found, batches, engine=engine.value, precision=precision.value, progress=counter
        )
    terminal.show(figures, as_json)
    require_passed(figures)


@app.command()
def encode(
    data: Data,
    out: Annotated[Path, typer.Option(help="Codes file to write, .npy; a .json comes beside it.")],
    model: Model = None,
    engine: Engine = EngineName.AUTO,
    precision: Precision = PrecisionName.FP32,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_error: OnErrorOption = OnErrorName.STOP,
    size: Size = None,
    split: Split = SplitName.ALL,
    resume: Annotated[bool, typer.Option(help="Continue an encode that was interrupted.")] = False,
    as_json: Json = False,
) -> None:
    """Turn images into codes."""
    from vqtrt import terminal
    from vqtrt.data.open import open_images
    from vqtrt.pipeline import encode_source

    source = open_images(data, split=split.value)
    found, tokenizer = open_model(model, engine, batch_size, precision)
    with terminal.counting("encoding") as counter, skippable():
        result = encode_source(
            tokenizer,
            source,
            out,
            root=data,
            model=found,
            preprocessing=resized(tokenizer, size),
            workers=worker_count(workers),
            on_error=on_error.value,
            resume=resume,
            progress=counter,
        )
    if result.resumed_at:
        terminal.note(f"resumed after {result.resumed_at} files")
    rejected = f", {result.rejected} rejected (see the .json)" if result.rejected else ""
    terminal.note(f"wrote {result.rows} rows to {result.out}{rejected}")
    if as_json:
        terminal.show(
            {"out": str(result.out), "rows": result.rows, "rejected": result.rejected}, True
        )


@app.command()
def decode(
    codes: Annotated[Path, typer.Argument(help="Codes file, .npy.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    model: Model = None,
    engine: Engine = EngineName.AUTO,
    precision: Precision = PrecisionName.FP32,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Turn codes back into images, as PNG."""
    from vqtrt import terminal
    from vqtrt.data.codes import read_codes
    from vqtrt.pipeline import decode_codes

    opened = read_codes(codes)
    _, tokenizer = open_model(model, engine, batch_size, precision)
    if opened.header and opened.header.weights_sha256 != tokenizer.engine.weights_sha256:
        terminal.note(f"warning: another model made {codes}: {opened.header.model.get('path')}")
    with terminal.counting("decoding") as counter:
        count = decode_codes(
            tokenizer, opened, out, workers=worker_count(workers), progress=counter
        )
    terminal.note(f"wrote {count} pictures into {out}")
    if as_json:
        terminal.show({"out": str(out), "pictures": count}, True)


@app.command("eval")
def evaluate(
    data: Data,
    model: Model = None,
    engine: Engine = EngineName.AUTO,
    precision: Precision = PrecisionName.FP32,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_error: OnErrorOption = OnErrorName.STOP,
    size: Size = None,
    split: Split = SplitName.TEST,
    grid: Annotated[
        Path | None, typer.Option(help="PNG to write: some images over their reconstructions.")
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="Score this prior instead, in bits a code; takes codes too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how well pictures survive: MSE, NMSE, PSNR, SSIM, codebook perplexity and usage."""
    from vqtrt import terminal
    from vqtrt.data.open import open_images
    from vqtrt.evaluate import evaluate as evaluate_model
    from vqtrt.speech_score import score_any

    if prior is not None:
        found, opened = open_named(model, engine, precision)
        with terminal.counting("scoring") as counter:
            figures = score_any(
                opened,
                found,
                data,
                prior,
                split=split.value,
                batch_size=batch_size,
                workers=worker_count(workers),
                progress=counter,
            )
        terminal.show(figures, as_json)
        return
    source = open_images(data, split=split.value)
    _, tokenizer = open_model(model, engine, batch_size, precision)
    with terminal.counting("evaluating") as counter, skippable():
        figures = evaluate_model(
            tokenizer,
            source,
            preprocessing=resized(tokenizer, size),
            workers=worker_count(workers),
            on_error=on_error.value,
            grid=grid,
            progress=counter,
        )
    terminal.show(figures, as_json)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Run, bundle or codes file.")],
    as_json: Json = False,
) -> None:
    """Say what a run, a bundle or a codes file is."""
    from vqtrt import terminal
    from vqtrt.describe import describe

    terminal.show(describe(path), as_json)


@app.command()
def shapes(
    folder: Annotated[Path, typer.Argument(help="Folder to write into.")],
    num: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other pictures.")] = 1,
) -> None:
    """Write the built-in pictures of coloured shapes as PNG, to try the other commands on."""
    from vqtrt import terminal
    from vqtrt.data.shapes import write_shapes

    write_shapes(folder, num, seed)
    terminal.note(f"wrote {num} pictures into {folder}")


@bench.command("encode")
def bench_encode(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    model: Model = None,
    engine: Engine = EngineName.AUTO,
    precision: Precision = PrecisionName.FP32,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the median counts.")] = 3,
    eager: Annotated[bool, typer.Option(help="Also time a plain Pillow and torch loop.")] = True,
    as_json: Json = False,
) -> None:
    """Rates of reading, engine and both together, beside a plain loop; peak memory."""
    from vqtrt import terminal
    from vqtrt.bench import bench_encode as run_bench

    found = find(model)
    with terminal.counting("measuring") as counter:
        figures = run_bench(
            found,
            folder,
            engine=engine.value,
            precision=precision.value,
            batch_size=batch_size,
            workers=worker_count(workers),
            repeat=repeat,
            eager=eager,
            progress=counter,
        )
    terminal.show(figures, as_json)


def main() -> None:
    """Run a command; a `VqtrtError` is printed as one line, with exit status 1."""
    try:
        app()
    except (VqtrtError, MemoryError, OSError) as error:
        fail(explain(error))
        sys.exit(130 if isinstance(error, Interrupted) else 1)
