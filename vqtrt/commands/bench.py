"""`vqtrt bench`: encode, engine (every engine that works here), decode (audio) and sample."""

from typing import Annotated

import typer

from vqtrt.commands import terminal
from vqtrt.commands.options import (
    IMAGES,
    RECORDINGS,
    BatchSize,
    ClipBatch,
    Json,
    Model,
    ModelOptions,
    ModelOrRandom,
    PrecisionName,
    Repeat,
    SampleBatch,
    Workers,
    expanded,
    find,
    worker_count,
)
from vqtrt.commands.sample import PriorName
from vqtrt.engines.options import AUTO, EngineOptions


def bench_engine(
    model: Model = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="Only this engine; repeatable (default: all).")
    ] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(help="Precision of the graphs; repeatable (default: fp32)."),
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option("--batch-size", "-b", min=1, help="Repeatable (default: 1, 16 and 64)."),
    ] = None,
    repeat: Repeat = 3,
    device: Annotated[
        int, typer.Option(min=0, help="Index of the GPU; CPU engines ignore it.")
    ] = 0,
    trust_engines: Annotated[
        bool,
        typer.Option(
            "--trust-engines",
            help="Load TensorRT engines that this machine did not build; they run as code.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Latency and throughput of every engine, and their share of the machine's peak."""
    from vqtrt.bench import engine as module
    from vqtrt.commands.bars import counting

    found = find(model)
    with counting("measuring") as counter:
        figures = module.bench_engine(
            found,
            engines=engine or module.ENGINES,
            precisions=[name.value for name in precision or [PrecisionName("fp32")]],
            batch_sizes=batch_size or (1, 16, 64),
            repeat=repeat,
            options=EngineOptions(device=device, trust_engines=trust_engines),
            progress=counter,
        )
    terminal.show(figures, as_json)


@expanded
def bench_decode(
    recipe: Annotated[
        str, typer.Option(help="Recipe whose decoder is measured, with random weights.")
    ] = "digits",
    model: ModelOrRandom = None,
    batch_size: ClipBatch = RECORDINGS,
    seconds: Annotated[float, typer.Option(min=0.01, help="Length of a clip in seconds.")] = 1.0,
    repeat: Repeat = 3,
    engine: EngineOptions = AUTO,
    as_json: Json = False,
) -> None:
    """Audio samples per second of decoding, beside real time and a naive loop."""
    from vqtrt.bench import decode as module
    from vqtrt.commands.bars import counting

    found = find(model) if model is not None else None
    with counting("measuring") as counter:
        options = {"batch_size": batch_size, "seconds": seconds, "repeat": repeat}
        if found is not None:
            figures = module.bench_decode_model(found, options=engine, progress=counter, **options)
        else:
            figures = module.bench_decode_recipe(recipe, engine, progress=counter, **options)
    terminal.show(figures, as_json)


@expanded
def bench_encode(
    data: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder of images or recordings.")],
    batch_size: BatchSize = None,
    workers: Workers = None,
    repeat: Repeat = 3,
    eager: Annotated[bool, typer.Option(help="Also time a plain loop in torch.")] = True,
    use: ModelOptions = ModelOptions(),
    as_json: Json = False,
) -> None:
    """Rates of reading, engine and both together, beside a plain loop; peak memory."""
    from vqtrt.bench.audio import bench_encode_speech
    from vqtrt.bench.images import bench_encode as bench_images
    from vqtrt.commands.bars import counting

    found, opened = use.open()
    speech = opened.speech is not None
    with counting("measuring") as counter:
        figures = (bench_encode_speech if speech else bench_images)(
            found,
            data,
            options=use,
            batch_size=batch_size or (RECORDINGS if speech else IMAGES),
            workers=worker_count(workers),
            repeat=repeat,
            eager=eager,
            progress=counter,
        )
    terminal.show(figures, as_json)


@expanded
def bench_sample(
    shape: Annotated[
        str | None, typer.Option(help="Grid of codes, HxW (default: as trained).")
    ] = None,
    batch_size: SampleBatch = 16,
    model: ModelOrRandom = None,
    prior: PriorName = None,
    layers: Annotated[int, typer.Option(min=2, help="Layers of random weights.")] = 15,
    channels: Annotated[int, typer.Option(min=1, help="Channels of random weights.")] = 64,
    repeat: Repeat = 3,
    engine: EngineOptions = AUTO,
    as_json: Json = False,
) -> None:
    """Cost of sampling a batch of codes in forward passes, beside a naive loop."""
    from vqtrt.bench import sample as module
    from vqtrt.commands.bars import counting
    from vqtrt.commands.on_images import parse_shape
    from vqtrt.engines.priors import find_prior, prior_name

    grid = parse_shape(shape)
    options = {"batch_size": batch_size, "repeat": repeat}
    if model is None:
        terminal.note("making a prior of random weights")
        with counting("measuring") as counter:
            figures = module.bench_random(
                grid or (8, 8), layers=layers, channels=channels, progress=counter, **options
            )
    else:
        _, opened = ModelOptions(**vars(engine), model=model).open()
        name = prior_name(opened, prior)
        info = find_prior(opened, name)
        with counting("measuring") as counter:
            figures = module.bench_sample(
                opened,
                name,
                shape=grid or (info.height, info.width),
                progress=counter,
                **options,
            )
    terminal.show(figures, as_json)
