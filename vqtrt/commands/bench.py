"""`bench encode`, `bench engine` (every engine that works here) and `bench decode` (of speech)."""

from pathlib import Path
from typing import Annotated

import typer

from vqtrt.commands.audio import BATCH
from vqtrt.commands.options import (
    IMAGES,
    AnyBatchSize,
    Device,
    Json,
    Model,
    PrecisionName,
    TrustEngines,
    Workers,
    find,
    open_named,
    with_engine,
    worker_count,
)
from vqtrt.engines.options import AUTO, EngineOptions


def bench_engine(
    model: Model = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="Only this engine; repeatable (default: all).")
    ] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(help="Of the graphs; repeatable (default: fp32)."),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Repeatable (default: 1, 16 and 64).")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the median counts.")] = 3,
    device: Device = 0,
    trust_engines: TrustEngines = False,
    as_json: Json = False,
) -> None:
    """Latency and rate of every engine beside torch, and the share of what the machine can do."""
    from vqtrt.bench import engine as module
    from vqtrt.commands import terminal

    found = find(model)
    with terminal.counting("measuring") as counter:
        figures = module.bench_engine(
            found,
            engines=engine or module.ENGINES,
            precisions=[name.value for name in precision or [PrecisionName.FP32]],
            batch_sizes=batch_size or (1, 16, 64),
            repeat=repeat,
            gpu=device,
            trust_engines=trust_engines,
            progress=counter,
        )
    terminal.show(figures, as_json)


@with_engine
def bench_decode(
    recipe: Annotated[
        str, typer.Option(help="Recipe whose decoder is measured, with random weights.")
    ] = "digits",
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Run or bundle, in place of a recipe."),
    ] = None,
    engine: EngineOptions = AUTO,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips decoded at once.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.01, help="Audio of each clip.")] = 1.0,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the median counts.")] = 3,
    as_json: Json = False,
) -> None:
    """Samples of audio a second from codes of speech, beside real time and a naive loop."""
    from vqtrt.bench import decode as module
    from vqtrt.commands import terminal

    found = find(model) if model is not None else None
    with terminal.counting("measuring") as counter:
        options = {"batch_size": batch_size, "seconds": seconds, "repeat": repeat}
        if found is not None:
            figures = module.bench_decode_model(
                found,
                options=engine,
                progress=counter,
                **options,
            )
        else:
            figures = module.bench_decode_recipe(recipe, engine, progress=counter, **options)
    terminal.show(figures, as_json)


@with_engine
def bench_encode(
    data: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder of images or recordings.")],
    model: Model = None,
    engine: EngineOptions = AUTO,
    batch_size: AnyBatchSize = None,
    workers: Workers = None,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the median counts.")] = 3,
    eager: Annotated[bool, typer.Option(help="Also time a plain loop in torch.")] = True,
    as_json: Json = False,
) -> None:
    """Rates of reading, engine and both together, beside a plain loop; peak memory."""
    from vqtrt.bench.audio import bench_encode_speech
    from vqtrt.bench.images import bench_encode as bench_images
    from vqtrt.commands import terminal

    found, opened = open_named(model, engine)
    speech = opened.speech is not None
    with terminal.counting("measuring") as counter:
        run_bench = bench_encode_speech if speech else bench_images
        figures = run_bench(
            found,
            data,
            options=engine,
            batch_size=batch_size or (BATCH if speech else IMAGES),
            workers=worker_count(workers),
            repeat=repeat,
            eager=eager,
            progress=counter,
        )
    terminal.show(figures, as_json)
