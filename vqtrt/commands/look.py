"""The commands that look at things and change nothing: `info`, `doctor`; and `shapes`."""

from pathlib import Path
from typing import Annotated

import typer

from vqtrt.commands import terminal
from vqtrt.commands.options import Json


def info(
    path: Annotated[Path, typer.Argument(help="Run, bundle, codes file or folder of shards.")],
    as_json: Json = False,
) -> None:
    """Describe a run, a bundle or codes."""
    from vqtrt.doctor.describe import describe

    terminal.show(describe(path), as_json)


def doctor(
    model: Annotated[
        Path | None, typer.Argument(help="Run or bundle to check as well (default: none).")
    ] = None,
    device: Annotated[int, typer.Option(min=0, help="Index of the GPU to try.")] = 0,
    as_json: Json = False,
) -> None:
    """Check this machine, its packages and engines, and say how to fix what is wrong."""
    import json

    from vqtrt.commands.bars import waiting
    from vqtrt.doctor.examine import examine

    with waiting("looking"):
        report = examine(model, device=device)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        for line in report.as_text().splitlines():
            print(terminal.printable(line))
    if not report.passed:
        raise typer.Exit(1)


def shapes(
    folder: Annotated[Path, typer.Argument(help="Folder to write into.")],
    num: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pictures.")] = 1,
) -> None:
    """Write built-in pictures of colored shapes as PNG, to try the other commands on."""
    from vqtrt.data.images.shapes import write_shapes

    write_shapes(folder, num, seed)
    terminal.note(f"wrote {num} pictures into {folder}")
