"""`sample`: new codes from a prior, decoded to pictures or wavs."""

from pathlib import Path
from typing import Annotated

import typer

from vqtrt.commands import terminal
from vqtrt.commands.complete import priors
from vqtrt.commands.options import Json, ModelOptions, SampleBatch, expanded, given, refuse_other
from vqtrt.commands.tokenize import modality
from vqtrt.errors import VqtrtError
from vqtrt.formats.sampling import SamplingParams

PriorName = Annotated[
    str | None,
    typer.Option(help="Name of the prior (default: the only one).", autocompletion=priors),
]


@expanded
def sample(
    prior: PriorName = None,
    num: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for PNGs or wavs, or a codes file, .npy."),
    ] = None,
    params: SamplingParams = SamplingParams(),
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
        Path | None, typer.Option(help="Images: codes file to complete; its first --rows are kept.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=0, help="Images: rows of codes to keep of --prefix.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Audio: length of a clip in seconds (default: 2).")
    ] = None,
    speaker: Annotated[
        str | None, typer.Option(help="Audio: speaker, by name (default: all in turn).")
    ] = None,
    batch_size: SampleBatch = 16,
    use: ModelOptions = ModelOptions(),
    as_json: Json = False,
) -> None:
    """Sample new images or recordings from a prior."""
    from vqtrt.data.grid import check_png
    from vqtrt.engines.priors import prior_name
    from vqtrt.formats.codes_writer import check_codes_out
    from vqtrt.system.atomic import check_folder

    if out is None and grid is None:
        raise VqtrtError("nothing to write: pass --out FOLDER, --out codes.npy or --grid PNG")
    if grid is not None:
        check_png(grid)
    if out is not None:
        (check_codes_out if out.suffix == ".npy" else check_folder)(out)
    found, opened = use.open()
    name = prior_name(opened, prior)
    images = {"grid": grid, "label": label, "shape": shape, "prefix": prefix, "rows": rows}
    audio = {"seconds": seconds, "speaker": speaker}
    refuse_other(opened, images=images, audio=audio)
    options = given(**images, **audio)
    modality(opened).sample(found, opened, name, num, params, out, batch_size, **options)
    written = [str(path) for path in (out, grid) if path is not None]
    terminal.note(f"wrote {num} samples: {', '.join(written)}")
    if as_json:
        terminal.show({"num": num, "prior": name, "seed": params.seed, "written": written}, True)
