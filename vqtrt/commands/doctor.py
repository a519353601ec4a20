"""The command `doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from vqtrt.commands.options import Json


def doctor(
    model: Annotated[
        Path | None, typer.Argument(help="Run or bundle to check as well (default: none).")
    ] = None,
    device: Annotated[int, typer.Option(min=0, help="Index of the GPU to try.")] = 0,
    as_json: Json = False,
) -> None:
    """Check what is installed here: machine, packages and engines, with what to do about faults."""
    import json

    from vqtrt.commands import terminal
    from vqtrt.doctor.examine import examine

    with terminal.waiting("looking"):
        report = examine(model, device=device)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        for line in report.as_text().splitlines():
            print(terminal.printable(line))
    if not report.passed:
        raise typer.Exit(1)
