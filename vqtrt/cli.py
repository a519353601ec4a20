"""The command line. Each command parses its options, calls one function and prints what it gives.

Nothing heavy is imported at the top: `vqtrt --help` answers before torch would have been found.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtrt.errors import ImageError, Interrupted, VqtrtError, explain
from vqtrt.terminal import Commands, fail

if TYPE_CHECKING:
    from vqtrt.artefacts import Artefacts
    from vqtrt.data.preprocessing import Preprocessing
    from vqtrt.tokenizer import Tokenizer

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


class EngineName(StrEnum):
    """What `--engine` takes; the same names as `vqtrt.engines.ENGINES`."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


class OnErrorName(StrEnum):
    """What to do with a file that is no image."""

    STOP = "stop"
    SKIP = "skip"


class SplitName(StrEnum):
    """The parts of a data set that has parts: `shapes` and the CIFAR-10 archive."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help="Run or bundle. Without it: $VQTRT_MODEL, else the newest run under ./runs.",
    ),
]
Engine = Annotated[EngineName, typer.Option(help="What runs the model.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one engine call.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Threads for files (default: one a core, at most 16).")
]
OnErrorOption = Annotated[
    OnErrorName, typer.Option("--on-error", help="At a file that is no image: stop, or skip it.")
]
Split = Annotated[SplitName, typer.Option(help="Part of the data, where it has parts.")]
Size = Annotated[
    str | None, typer.Option(help="Picture size HxW (128 for a square) instead of the model's own.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Data = Annotated[str, typer.Argument(help="Folder of images, .npy/.npz, CIFAR-10, or `shapes`.")]


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="Recipe name or YAML file.")] = None,
    data: Annotated[
        str | None, typer.Option(help="What to train on, instead of the recipe's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/RECIPE).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, such as train.steps=2000; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the newest checkpoint.")] = False,
) -> None:
    """Train a VQ-VAE. Without a recipe: `shapes`, which needs no data."""
    from vqtrt import terminal
    from vqtrt.training.start import plan

    overrides = [*(settings or []), *([f"data.path={data}"] if data else [])]
    config, path = plan(recipe, out, overrides, resume=resume)
    if _main_process():
        terminal.note(f"training {config.recipe} on {config.data.path}, into {path}")
    from vqtrt.training.loop import train as train_model

    bar = terminal.TrainingBar()
    try:
        run = train_model(config, path, bar, resume=resume)
    finally:
        bar.stop()
    if _main_process():
        terminal.note(f"trained {run.path}; next: vqtrt export {run.path}")


@app.command()
def export(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run (default: $VQTRT_MODEL, else the newest under ./runs)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle folder (default: RUN/bundle).")] = None,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Verify the written files.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a run's bundle: ONNX graphs and what they need, then verify the files."""
    from vqtrt import terminal
    from vqtrt.export.run import export_bundle, verify_bundle

    model = _find(run)
    with terminal.waiting("exporting"):
        exported = export_bundle(model, out)
    terminal.note(f"wrote {exported.bundle}")
    if not check:
        return
    with terminal.waiting("verifying"):
        figures = verify_bundle(exported)
    terminal.show(figures, as_json)
    _require_passed(figures)


@app.command()
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="Run or bundle (default: $VQTRT_MODEL, else the newest run)."),
    ] = None,
    data: Annotated[str, typer.Argument(help="Images to compare on.")] = "shapes",
    engine: Engine = EngineName.AUTO,
    limit: Annotated[int, typer.Option(min=1, help="Compare at most this many images.")] = 10_000,
    workers: Workers = None,
    split: Split = SplitName.TEST,
    as_json: Json = False,
) -> None:
    """Measure that an engine gives the codes and pictures that torch gives."""
    from vqtrt import terminal
    from vqtrt.export.run import images_for
    from vqtrt.export.verify import verify as verify_model

    found = _find(model)
    with terminal.counting("verifying") as counter:
        batches = images_for(found, data, split.value, limit=limit, workers=_workers(workers))
        figures = verify_model(found, batches, engine=engine.value, progress=counter)
    terminal.show(figures, as_json)
    _require_passed(figures)


@app.command()
def encode(
    data: Data,
    out: Annotated[Path, typer.Option(help="Codes file to write, .npy; a .json comes beside it.")],
    model: Model = None,
    engine: Engine = EngineName.AUTO,
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
    found, tokenizer = _open(model, engine, batch_size)
    with terminal.counting("encoding") as counter, _skippable():
        result = encode_source(
            tokenizer,
            source,
            out,
            root=data,
            model=found,
            preprocessing=_resized(tokenizer, size),
            workers=_workers(workers),
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
    batch_size: BatchSize = 64,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Turn codes back into images, as PNG."""
    from vqtrt import terminal
    from vqtrt.data.codes import read_codes
    from vqtrt.pipeline import decode_codes

    opened = read_codes(codes)
    _, tokenizer = _open(model, engine, batch_size)
    if opened.header and opened.header.weights_sha256 != tokenizer.engine.weights_sha256:
        terminal.note(f"warning: another model made {codes}: {opened.header.model.get('path')}")
    with terminal.counting("decoding") as counter:
        count = decode_codes(tokenizer, opened, out, workers=_workers(workers), progress=counter)
    terminal.note(f"wrote {count} pictures into {out}")
    if as_json:
        terminal.show({"out": str(out), "pictures": count}, True)


@app.command("eval")
def evaluate(
    data: Data,
    model: Model = None,
    engine: Engine = EngineName.AUTO,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_error: OnErrorOption = OnErrorName.STOP,
    size: Size = None,
    split: Split = SplitName.TEST,
    grid: Annotated[
        Path | None, typer.Option(help="PNG to write: some images over their reconstructions.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how well pictures survive: MSE, NMSE, PSNR, SSIM, codebook perplexity and usage."""
    from vqtrt import terminal
    from vqtrt.data.open import open_images
    from vqtrt.evaluate import evaluate as evaluate_model

    source = open_images(data, split=split.value)
    _, tokenizer = _open(model, engine, batch_size)
    with terminal.counting("evaluating") as counter, _skippable():
        figures = evaluate_model(
            tokenizer,
            source,
            preprocessing=_resized(tokenizer, size),
            workers=_workers(workers),
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
    batch_size: BatchSize = 64,
    workers: Workers = None,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the median counts.")] = 3,
    eager: Annotated[bool, typer.Option(help="Also time a plain Pillow and torch loop.")] = True,
    as_json: Json = False,
) -> None:
    """Rates of reading, engine and both together, beside a plain loop; peak memory."""
    from vqtrt import terminal
    from vqtrt.bench import bench_encode as run_bench

    found = _find(model)
    with terminal.counting("measuring") as counter:
        figures = run_bench(
            found,
            folder,
            engine=engine.value,
            batch_size=batch_size,
            workers=_workers(workers),
            repeat=repeat,
            eager=eager,
            progress=counter,
        )
    terminal.show(figures, as_json)


def _find(named: Path | None) -> "Artefacts":
    from vqtrt import terminal
    from vqtrt.artefacts import find_model

    found = find_model(named)
    if _main_process():
        terminal.note(f"model: {found.path} ({found.chosen_by})")
    return found


def _open(named: Path | None, engine: EngineName, batch_size: int) -> "tuple[Artefacts, Tokenizer]":
    from vqtrt import terminal
    from vqtrt.engines import open_engine
    from vqtrt.tokenizer import Tokenizer

    found = _find(named)
    opened = open_engine(found, engine.value)
    terminal.note(f"engine: {opened.name}")
    return found, Tokenizer(opened, batch_size=batch_size)


def _workers(workers: int | None) -> int:
    from vqtrt.data.batches import default_workers

    return workers or default_workers()


def _resized(tokenizer: "Tokenizer", size: str | None) -> "Preprocessing | None":
    return None if size is None else tokenizer.preprocessing.with_size(size)


@contextmanager
def _skippable() -> Iterator[None]:
    """Of the commands that read images, only some can pass over one: those say so."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{error}; --on-error skip passes over such files") from error


def _require_passed(figures: dict[str, Any]) -> None:
    if not figures["passed"]:
        raise VqtrtError(
            "verification failed: codes differ beyond rounding, a picture by more than one grey "
            "level, or codes change with the batch; do not use these files"
        )


def _main_process() -> bool:
    """Whether this is the process that speaks, under torchrun too."""
    return os.environ.get("RANK", "0") == "0"


def main() -> None:
    """Run a command; a `VqtrtError` is printed as one line, with exit status 1."""
    try:
        app()
    except (VqtrtError, MemoryError, OSError) as error:
        fail(explain(error))
        sys.exit(130 if isinstance(error, Interrupted) else 1)
