"""`encode`, `decode` and `eval`: the model says whether they are of images or of audio."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from vqtrt.commands import terminal
from vqtrt.commands.options import (
    BatchSize,
    Data,
    DataOptions,
    JobOptions,
    Json,
    ModelOptions,
    SoundOptions,
    Speaker,
    Workers,
    Written,
    expanded,
    tell_passed_over,
    with_kinds,
)

if TYPE_CHECKING:
    from vqtrt.engines.base import Engine


def modality(engine: "Engine") -> ModuleType:
    """`on_audio` or `on_images`, by what the model is of."""
    if engine.speech is not None:
        from vqtrt.commands import on_audio

        return on_audio
    from vqtrt.commands import on_images

    return on_images


@expanded
def encode(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Folders of images or recordings, or single files; or one .npy/.npz, CIFAR, or "
            "`shapes`.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Codes file to write, .npy; a .json lies beside it.")
    ],
    batch_size: BatchSize = None,
    options: DataOptions = DataOptions(),
    use: ModelOptions = ModelOptions(),
    job: JobOptions = JobOptions(),
) -> None:
    """Encode images or recordings to codes."""
    from vqtrt.data.selection import in_words
    from vqtrt.formats.codes_writer import check_codes_out

    check_codes_out(out)
    found, opened = use.open()
    twin = modality(opened)
    result = twin.encode(
        found, opened, data, out, options, batch_size=batch_size, resume=job.resume
    )
    tell_passed_over(result.passed_over, audio=opened.speech is not None)
    kinds = in_words(result.rejected_kinds)
    rejected = f", {result.rejected} rejected (see the .json): {kinds}" if result.rejected else ""
    if result.resumed_at == result.rows + result.rejected:
        done = f"{out} is complete already: {result.rows} {twin.ITEMS}{rejected}"
        terminal.note(f"{done}; nothing was left to do")
    else:
        if result.resumed_at:
            terminal.note(f"resumed after {result.resumed_at} files")
        terminal.note(f"wrote {result.rows} {twin.ITEMS} to {result.out}{rejected}")
    if job.as_json:
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


@expanded
def decode(
    codes: Annotated[Path, typer.Argument(help="Codes file, .npy.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNGs or wavs.")],
    batch_size: BatchSize = None,
    workers: Workers = None,
    speaker: Speaker = None,
    sound: SoundOptions = SoundOptions(),
    use: ModelOptions = ModelOptions(),
    job: JobOptions = JobOptions(),
) -> None:
    """Decode codes to images (PNG) or recordings (wav)."""
    from vqtrt.system.atomic import check_folder

    check_folder(out)
    written = Written()
    _, opened = use.open()
    twin = modality(opened)
    count = twin.decode(
        opened,
        codes,
        out,
        batch_size=batch_size,
        workers=workers,
        speaker=speaker,
        sound=sound,
        resume=job.resume,
        written=written,
    )
    written.tell(out, count, twin.FILES, f"wrote {count} {twin.FILES} into {out}")
    if job.as_json:
        terminal.show({"out": str(out), twin.FILES: count}, True)


@expanded
def evaluate(
    data: Data,
    batch_size: BatchSize = None,
    options: DataOptions = DataOptions(),
    speaker: Speaker = None,
    grid: Annotated[
        Path | None,
        typer.Option(help="PNG to write: some items of the data beside their reconstructions."),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(help="Score this prior instead, in bits per code; takes codes files too."),
    ] = None,
    use: ModelOptions = ModelOptions(),
    as_json: Json = False,
) -> None:
    """Measure reconstruction quality and codebook usage."""
    found, opened = use.open()
    figures, source = modality(opened).evaluate(
        found,
        opened,
        data,
        options,
        batch_size=batch_size,
        speaker=speaker,
        grid=grid,
        prior=prior,
    )
    if source is not None:
        figures = with_kinds(figures, source, as_json, audio=opened.speech is not None)
    terminal.show(figures, as_json)
