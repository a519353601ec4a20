"""`encode`, `decode` and `eval`: the model says whether they are of images or of audio."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtrt.commands import terminal
from vqtrt.commands.bits import refuse_with_bits, score_bits
from vqtrt.commands.options import (
    BatchSize,
    Data,
    DataOptions,
    Format,
    JobOptions,
    Json,
    ModelOptions,
    ShardSize,
    SoundOptions,
    Speaker,
    ViewsName,
    ViewsOption,
    Workers,
    expanded,
    given,
    refuse_other,
)
from vqtrt.commands.outcome import Written, skippable, tell_passed_over, tell_stages, with_kinds
from vqtrt.commands.where import WhereOptions, on_devices, on_ray, tell_all
from vqtrt.data.urls import public_url
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.engines.base import Engine
    from vqtrt.jobs.encode import EncodeResult

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Folders of images or recordings, tars or Parquet files of them (also URLs), or "
        "single files; or one .npy/.npz, CIFAR, or `shapes`.",
    ),
]
CodesOut = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Codes file to write, .npy, with a .json; or a folder for shards."
    ),
]


def modality(engine: "Engine") -> ModuleType:
    """`on_audio` or `on_images`, by what the model is of."""
    if engine.speech is not None:
        from vqtrt.commands import on_audio

        return on_audio
    from vqtrt.commands import on_images

    return on_images


@expanded
def encode(
    data: Paths,
    out: CodesOut,
    batch_size: BatchSize = None,
    options: DataOptions = DataOptions(),
    views: ViewsOption = None,
    shard_size: ShardSize = None,
    form: Format = None,
    where: WhereOptions = WhereOptions(),
    use: ModelOptions = ModelOptions(),
    job: JobOptions = JobOptions(),
) -> None:
    """Encode images or recordings to codes."""
    from vqtrt.commands.bars import counting, waiting
    from vqtrt.data.selection import in_words
    from vqtrt.jobs.stages import bottleneck

    more = given(shard_size=shard_size, format=form and form.value)
    _check_out(out, bool(more) or where.sharded)
    where.check(use)
    opener = partial(_opened, data, out, options, use, batch_size, views)
    if where.devices is not None or where.on is not None:
        if where.devices is not None:
            on_devices(where, out)
        else:
            on_ray(where, out, opener, **more)
        tell_all(out, job.as_json)
        return
    with waiting("opening the data"):
        opened, run = opener()
    more |= given(turn=where.turn)
    with counting("encoding") as counter, skippable():
        result = run(resume=job.resume, progress=counter, **more)
    tell_passed_over(result.passed_over, audio=opened.speech is not None)
    items = modality(opened).ITEMS
    listed = "the .json" if out.suffix == ".npy" else "the .jsonl of the shards"
    kinds = in_words(result.rejected_kinds)
    rejected = f", {result.rejected} rejected (see {listed}): {kinds}" if result.rejected else ""
    if result.resumed_at == result.rows + result.rejected:
        done = f"{out} is complete already: {result.rows} {items}{rejected}"
        terminal.note(f"{done}; nothing was left to do")
    else:
        if result.resumed_at:
            terminal.note(f"resumed after {result.resumed_at} files")
        terminal.note(f"wrote {result.rows} {items} to {result.out}{rejected}")
        tell_stages(result.stages)
    if job.as_json:
        terminal.show(
            {
                "out": str(result.out),
                "rows": result.rows,
                "rejected": result.rejected,
                "passed_over": result.passed_over,
                "rejected_kinds": result.rejected_kinds,
                "stages": result.stages,
                "bottleneck": bottleneck(result.stages),
            },
            True,
        )


def _opened(
    data: list[str],
    out: Path,
    options: DataOptions,
    use: ModelOptions,
    batch_size: int | None,
    views: ViewsName | None,
) -> "tuple[Engine, Callable[..., EncodeResult]]":
    """The model, and what encodes the data with it when it is given more of `EncodeOptions`."""
    from vqtrt.data.images.views import with_views
    from vqtrt.formats.shards import indexes_of

    found, engine = use.open()
    options.require_fit(engine)
    refuse_other(engine, images={"views": views}, audio={})
    twin = modality(engine)
    tokenizer = twin.open_tokenizer(engine, batch_size)
    source = twin.open_source(found, data, options, "all", indexes_of(out))
    preprocessing = twin.preprocessing(tokenizer, options)
    if views is not None:
        preprocessing = with_views(preprocessing or tokenizer.preprocessing, views.value)
    run = partial(
        twin.encode_source,
        tokenizer,
        source,
        out,
        root=" ".join(map(public_url, data)),
        model=found,
        preprocessing=preprocessing,
        **options.reading,
    )
    return engine, run


@expanded
def plan(
    data: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of shards to begin.")],
    options: DataOptions = DataOptions(),
    views: ViewsOption = None,
    shard_size: ShardSize = None,
    form: Format = None,
    use: ModelOptions = ModelOptions(),
    as_json: Json = False,
) -> None:
    """List the data and write job.json: once, before a job array encodes."""
    from vqtrt.commands.bars import waiting
    from vqtrt.formats.shards import read_job

    _check_out(out, True)
    with waiting("listing"):
        opened, run = _opened(data, out, options, use, None, views)
        result = run(plan=True, **given(shard_size=shard_size, format=form and form.value))
    tell_passed_over(result.passed_over, audio=opened.speech is not None)
    job = read_job(out)
    count, items = len(job.shards), job.items
    terminal.note(f"{out}: {items} items in {count} shards; encode them with --shard I/N")
    if as_json:
        terminal.show({"out": str(out), "items": items, "shards": count}, True)


def merge(
    codes: Annotated[Path, typer.Argument(help="Folder of shards, or a codes file to convert.")],
    to: Annotated[
        Path | None,
        typer.Option(
            help="File to write with all codes: .npy; or for others .parquet, .jsonl, .tar "
            "(WebDataset), .bin (uint16)."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read all shards and compare their hashes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check that all shards are there; write one codes file, or another format."""
    from vqtrt.formats.codes_writer import check_codes_out
    from vqtrt.formats.converters.convert import check_convertible, convert_codes
    from vqtrt.formats.shard_codes import merge as merge_shards
    from vqtrt.formats.shards import is_sharded

    other = to is not None and to.suffix != ".npy"
    if to is not None:
        (check_convertible if other else check_codes_out)(to)
    rows, rejected = 0, 0
    if is_sharded(codes) or not other or codes.is_dir():
        rows, rejected = merge_shards(codes, None if other else to, check=check)
    if to is not None and other:
        rows = convert_codes(codes, to)
    without = f", {rejected} rejected" if rejected else ""
    terminal.note(f"{codes} is complete: {rows} items{without}" + (f"; wrote {to}" if to else ""))
    if as_json:
        figures = {"rows": rows, "rejected": rejected, "out": str(to) if to else None}
        terminal.show(figures, True)


def _check_out(out: Path, sharded: bool) -> None:
    """Raise `VqtrtError` if codes cannot be written to `out`, a file or a folder of shards."""
    from vqtrt.formats.codes_writer import check_codes_out
    from vqtrt.system.atomic import check_folder

    if out.suffix == ".npy":
        if sharded:
            raise VqtrtError(f"{out}: is one file; shards need a folder: name one with --out")
        check_codes_out(out)
    elif out.suffix[1:2].isalpha() and not out.is_dir():  # but `imagenet-v1.0` is a folder
        raise VqtrtError(f"{out}: --out must end in .npy, or name a folder for shards")
    else:
        check_folder(out)


@expanded
def decode(
    codes: Annotated[Path, typer.Argument(help="Codes file, .npy, or folder of shards.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the PNGs or wavs, or a .tar of them.")
    ],
    batch_size: BatchSize = None,
    workers: Workers = None,
    speaker: Speaker = None,
    sound: SoundOptions = SoundOptions(),
    use: ModelOptions = ModelOptions(),
    job: JobOptions = JobOptions(),
) -> None:
    """Decode codes to images (PNG) or recordings (wav)."""
    from vqtrt.commands.bars import counting
    from vqtrt.formats.origin import warn_of_others
    from vqtrt.jobs.decode import check_files_out

    check_files_out(out)
    written = Written()
    _, opened = use.open()
    twin = modality(opened)
    only_audio = {"speaker": speaker, **sound.given()}
    refuse_other(opened, images={"workers": workers}, audio=only_audio)
    tokenizer, items = twin.open_tokenizer(opened, batch_size, sound), twin.read_codes(codes)
    warn_of_others(codes, items.header, opened.weights_sha256, terminal.note)
    with counting("decoding") as counter:
        count = twin.decode_codes(
            tokenizer,
            items,
            out,
            note=terminal.note,
            resume=job.resume,
            resumed=written.resumed,
            progress=counter,
            **given(workers=workers, speaker=speaker),
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
    bits_per_dim: Annotated[
        bool,
        typer.Option("--bits-per-dim", help="Measure the bound of log p(x) instead; needs torch."),
    ] = False,
    samples: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="With --bits-per-dim: samples of a second bound."),
    ] = 1,
    use: ModelOptions = ModelOptions(),
    as_json: Json = False,
) -> None:
    """Measure reconstruction quality and codebook usage."""
    from vqtrt.commands.bars import counting
    from vqtrt.engines.priors import find_prior
    from vqtrt.jobs.score import score_data

    if bits_per_dim:
        refuse_with_bits({"--grid": grid, "--speaker": speaker, "--batch-size": batch_size})
        terminal.show(score_bits(use, data, options, prior, samples), as_json)
        return
    if samples != 1:
        raise VqtrtError("--samples: is for --bits-per-dim")
    found, opened = use.open()
    twin = modality(opened)
    options.require_fit(opened, speaker)
    tokenizer = twin.open_tokenizer(opened, batch_size)

    def open_source() -> Any:
        return twin.open_source(found, [data], options, "test")

    if prior is not None:
        find_prior(opened, prior)
        with counting("scoring") as counter:
            told = {
                "root": public_url(data),
                "model": found,
                "progress": counter,
                **options.reading,
            }
            how = {"batch_size": tokenizer.batch_size, "progress": counter}
            figures = score_data(
                data,
                lambda out: twin.encode_source(tokenizer, open_source(), out, **told),
                lambda codes: twin.score_codes(opened, prior, twin.read_codes(codes), **how),
            )
        terminal.show(figures, as_json)
        return
    source = open_source()
    with counting("evaluating") as counter, skippable():
        figures = twin.evaluate(
            tokenizer,
            source,
            root=public_url(data),
            preprocessing=twin.preprocessing(tokenizer, options),
            grid=grid,
            progress=counter,
            **options.reading,
            **given(speaker=speaker),
        )
    terminal.show(with_kinds(figures, source, as_json, audio=opened.speech is not None), as_json)
