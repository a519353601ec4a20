"""The command line. Each command parses its options, calls one function and prints what it gives.

Nothing heavy is imported at the top: `vqtrt --help` answers before torch would have been found.
"""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from vqtrt.commands.audio import (
    BATCH,
    convert,
    decode_recordings,
    encode_recordings,
    evaluate_recordings,
    probe,
)
from vqtrt.commands.bench import bench_decode, bench_encode, bench_engine
from vqtrt.commands.doctor import doctor
from vqtrt.commands.export import export, verify
from vqtrt.commands.options import (
    IMAGES,
    AnyBatchSize,
    AnySplit,
    Data,
    Exclude,
    Include,
    Json,
    LevelDb,
    Model,
    OnErrorName,
    OnErrorOption,
    Resume,
    ResumeJob,
    Seed,
    Settings,
    Size,
    Speaker,
    SpeakerPattern,
    SplitName,
    Temperature,
    TrainOnError,
    Workers,
    Written,
    file_settings,
    main_process,
    open_named,
    refuse,
    resized,
    selection,
    skippable,
    tell_passed_over,
    warn_of_others,
    with_engine,
    with_kinds,
    worker_count,
)
from vqtrt.commands.priors import bench_sample, sample, train_prior
from vqtrt.commands.terminal import Commands, fail, warnings_shown
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import Interrupted, VqtrtError, explain
from vqtrt.system import interrupts

app = typer.Typer(
    cls=Commands,
    help="VQ-VAE from training to deployment: images and speech to codes and back, on any engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
bench = typer.Typer(help="Measure how fast it is here.", no_args_is_help=True)
app.add_typer(bench, name="bench")
app.command()(doctor)
app.command()(export)
app.command()(verify)
app.command()(convert)
app.command()(probe)
app.command()(train_prior)
app.command()(sample)
bench.command("sample")(bench_sample)
bench.command("engine")(bench_engine)
bench.command("decode")(bench_decode)
bench.command("encode")(bench_encode)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="Recipe name or YAML file.")] = None,
    data: Annotated[
        str | None, typer.Option(help="What to train on, instead of the recipe's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/RECIPE).")] = None,
    speaker_pattern: SpeakerPattern = None,
    include: Include = None,
    exclude: Exclude = None,
    on_error: TrainOnError = None,
    settings: Settings = None,
    resume: Resume = False,
) -> None:
    """Train a VQ-VAE. Without a recipe: `shapes`, which needs no data."""
    from vqtrt.commands import terminal
    from vqtrt.training.start import plan

    named = {"path": data, "speaker_pattern": speaker_pattern, "on_error": on_error}
    given = [f"data.{key}={value}" for key, value in named.items() if value]
    overrides = [*(settings or []), *given]
    overrides += file_settings(include, exclude)
    config, path = plan(recipe, out, overrides, resume=resume)
    if main_process():
        terminal.note(f"training {config.recipe} on {config.data.path}, into {path}")
    from vqtrt.training.any import train_any

    bar = terminal.TrainingBar()
    try:
        with skippable():
            train_any(config, path, bar, resume=resume)
    finally:
        bar.stop()
    if main_process():
        terminal.note(f"trained {path}; next: vqtrt export {path}")


@app.command()
@with_engine
def encode(
    data: Data,
    out: Annotated[Path, typer.Option(help="Codes file to write, .npy; a .json comes beside it.")],
    model: Model = None,
    engine: EngineOptions = AUTO,
    batch_size: AnyBatchSize = None,
    workers: Workers = None,
    on_error: OnErrorOption = OnErrorName.STOP,
    size: Size = None,
    split: AnySplit = None,
    include: Include = None,
    exclude: Exclude = None,
    level_db: LevelDb = None,
    speaker_pattern: SpeakerPattern = None,
    resume: ResumeJob = False,
    as_json: Json = False,
) -> None:
    """Turn images or recordings into codes."""
    from vqtrt.commands import terminal
    from vqtrt.data.images.open import open_images
    from vqtrt.data.selection import in_words
    from vqtrt.formats.codes_writer import check_codes_out
    from vqtrt.images.encode import encode_source
    from vqtrt.images.tokenizer import ImageTokenizer

    check_codes_out(out)
    chosen = selection(include, exclude)
    found, opened = open_named(model, engine)
    if opened.speech is not None:
        refuse({"size": size, "split": split}, "images", "speech")
        result = encode_recordings(
            found,
            opened,
            data,
            out,
            batch_size=batch_size or BATCH,
            workers=worker_count(workers),
            on_error=on_error,
            level_db=level_db,
            speaker_pattern=speaker_pattern,
            chosen=chosen,
            resume=resume,
        )
    else:
        refuse({"level-db": level_db, "speaker-pattern": speaker_pattern}, "speech", "images")
        source = open_images(data, (split or SplitName.ALL).value, chosen)
        tokenizer = ImageTokenizer(opened, batch_size=batch_size or IMAGES)
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
    tell_passed_over(result.passed_over, speech=opened.speech is not None)
    kinds = in_words(result.rejected_kinds)
    rejected = f", {result.rejected} rejected (see the .json): {kinds}" if result.rejected else ""
    what = "rows" if opened.speech is None else "recordings"
    if result.resumed_at == result.rows + result.rejected:
        done = f"{out} is complete already: {result.rows} {what}{rejected}"
        terminal.note(f"{done}; nothing was left to do")
    else:
        if result.resumed_at:
            terminal.note(f"resumed after {result.resumed_at} files")
        terminal.note(f"wrote {result.rows} {what} to {result.out}{rejected}")
    if as_json:
        terminal.show(
            {
                "out": str(result.out),
                "rows": result.rows,
                "rejected": result.rejected,
                "passed_over": result.passed_over,
                "rejected_kinds": result.rejected_kinds,
            },
            True,
        )


@app.command()
@with_engine
def decode(
    codes: Annotated[Path, typer.Argument(help="Codes file, .npy.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures or wavs.")],
    model: Model = None,
    engine: EngineOptions = AUTO,
    batch_size: AnyBatchSize = None,
    workers: Workers = None,
    speaker: Speaker = None,
    temperature: Temperature = None,
    seed: Seed = None,
    resume: ResumeJob = False,
    as_json: Json = False,
) -> None:
    """Turn codes back into images, as PNG, or into recordings, as wav."""
    from vqtrt.commands import terminal
    from vqtrt.formats.codes import read_codes
    from vqtrt.images.decode import decode_codes
    from vqtrt.images.tokenizer import ImageTokenizer
    from vqtrt.system.atomic import check_folder

    check_folder(out)
    written = Written()
    _, opened = open_named(model, engine)
    if opened.speech is not None:
        refuse({"workers": workers}, "images", "speech")
        count = decode_recordings(
            opened,
            codes,
            out,
            batch_size=batch_size or BATCH,
            speaker=speaker,
            temperature=temperature,
            seed=seed,
            resume=resume,
            resumed=written.resumed,
        )
    else:
        refuse({"speaker": speaker, "temperature": temperature, "seed": seed}, "speech", "images")
        rows = read_codes(codes)
        warn_of_others(codes, rows.header, opened)
        tokenizer = ImageTokenizer(opened, batch_size=batch_size or IMAGES)
        with terminal.counting("decoding") as counter:
            count = decode_codes(
                tokenizer,
                rows,
                out,
                workers=worker_count(workers),
                note=terminal.note,
                resume=resume,
                resumed=written.resumed,
                progress=counter,
            )
    what = "pictures" if opened.speech is None else "wavs"
    written.tell(out, count, what, f"wrote {count} {what} into {out}")
    if as_json:
        terminal.show({"out": str(out), what: count}, True)


@app.command("eval")
@with_engine
def evaluate(
    data: Data,
    model: Model = None,
    engine: EngineOptions = AUTO,
    batch_size: AnyBatchSize = None,
    workers: Workers = None,
    on_error: OnErrorOption = OnErrorName.STOP,
    size: Size = None,
    split: AnySplit = None,
    include: Include = None,
    exclude: Exclude = None,
    level_db: LevelDb = None,
    speaker_pattern: SpeakerPattern = None,
    speaker: Speaker = None,
    grid: Annotated[
        Path | None, typer.Option(help="PNG to write: some of the data and their reconstructions.")
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="Score this prior instead, in bits a code; takes codes too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how well pictures or recordings survive, and how the codebook is used."""
    from vqtrt.commands import terminal
    from vqtrt.data.images.open import open_images
    from vqtrt.images.evaluate import evaluate as evaluate_model
    from vqtrt.images.score import score_data
    from vqtrt.images.tokenizer import ImageTokenizer

    chosen = selection(include, exclude)
    found, opened = open_named(model, engine)
    if opened.speech is not None:
        refuse({"size": size, "split": split}, "images", "speech")
        figures = evaluate_recordings(
            found,
            opened,
            data,
            batch_size=batch_size or BATCH,
            workers=worker_count(workers),
            on_error=on_error,
            grid=grid,
            prior=prior,
            speaker=speaker,
            level_db=level_db,
            speaker_pattern=speaker_pattern,
            chosen=chosen,
            as_json=as_json,
        )
        terminal.show(figures, as_json)
        return
    only = {"level-db": level_db, "speaker-pattern": speaker_pattern, "speaker": speaker}
    refuse(only, "speech", "images")
    part = (split or SplitName.TEST).value
    tokenizer = ImageTokenizer(opened, batch_size=batch_size or IMAGES)
    if prior is not None:
        with terminal.counting("scoring") as counter:
            figures = score_data(
                tokenizer,
                found,
                data,
                prior,
                split=part,
                selection=chosen,
                workers=worker_count(workers),
                progress=counter,
            )
        terminal.show(figures, as_json)
        return
    source = open_images(data, part, chosen)
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
    terminal.show(with_kinds(figures, source, as_json), as_json)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Run, bundle or codes file.")],
    as_json: Json = False,
) -> None:
    """Say what a run, a bundle or a codes file is."""
    from vqtrt.commands import terminal
    from vqtrt.doctor.describe import describe

    terminal.show(describe(path), as_json)


@app.command()
def shapes(
    folder: Annotated[Path, typer.Argument(help="Folder to write into.")],
    num: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other pictures.")] = 1,
) -> None:
    """Write the built-in pictures of colored shapes as PNG, to try the other commands on."""
    from vqtrt.commands import terminal
    from vqtrt.data.images.shapes import write_shapes

    write_shapes(folder, num, seed)
    terminal.note(f"wrote {num} pictures into {folder}")


def main() -> None:
    """Run a command; a `VqtrtError` is printed as one line, with exit status 1.

    One that a signal ended has the exit status that a shell gives for it: 128 and the number.
    """
    with interrupts.handled(), warnings_shown():
        try:
            app()
        except (Interrupted, KeyboardInterrupt) as error:
            # The second, where a signal comes while Typer puts its commands together.
            number = interrupts.received() or signal.SIGINT
            ended = error if isinstance(error, Interrupted) else Interrupted(number)
            if main_process():
                fail(explain(ended))
            sys.exit(ended.status)
        except (VqtrtError, MemoryError, OSError) as error:
            fail(explain(error))
            sys.exit(1)
        except SystemExit as end:
            # Typer's own, where a signal came before the command began.
            came = interrupts.received()
            sys.exit(Interrupted(came).status if came and end.code else end.code)
