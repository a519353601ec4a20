"""`bench engine`: every engine that works here, side by side."""

from typing import Annotated

import typer

from vqtrt.cli_options import Json, Model, PrecisionName, find


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
    as_json: Json = False,
) -> None:
    """Latency and rate of every engine beside torch, and the share of what the machine can do."""
    from vqtrt import bench_engine as module
    from vqtrt import terminal

    found = find(model)
    with terminal.counting("measuring") as counter:
        figures = module.bench_engine(
            found,
            engines=engine or module.ENGINES,
            precisions=[name.value for name in precision or [PrecisionName.FP32]],
            batch_sizes=batch_size or (1, 16, 64),
            repeat=repeat,
            progress=counter,
        )
    terminal.show(figures, as_json)
