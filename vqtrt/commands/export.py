"""The commands about bundles: `export` and `verify`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vqtrt.commands.options import (
    AnySplit,
    Json,
    PrecisionName,
    SplitName,
    Workers,
    find,
    refuse,
    require_passed,
    with_engine,
    worker_count,
)
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError


class TargetName(StrEnum):
    """What `--target` takes; the same names as `vqtrt.engines.tensorrt.package.NAMES`."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


def export(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run (default: $VQTRT_MODEL, else the newest under ./runs)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle folder (default: RUN/bundle).")] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(help="Write these graphs, too, beside those of fp32; repeatable."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Verify the written files.")
    ] = True,
    target: Annotated[
        TargetName | None, typer.Option(help="Compile the graphs with this package, too.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batch of the engines: least, usual and largest, or one number (default: "
            "1,64,64; 1,16,64 for priors and WaveNet steps)."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Engines' picture size HxW, or three (default: the model's).")
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(help="With tensorrt-rtx, kind of GPU such as 8.9; repeatable (default: any)."),
    ] = None,
    device: Annotated[
        int, typer.Option(min=0, help="With tensorrt, the GPU to compile on, by CUDA's number.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write a run's bundle: ONNX graphs and what they need, then verify the files.

    With --target, compile them, too; a bundle in place of the run is compiled as it stands.
    """
    from vqtrt.commands import terminal
    from vqtrt.export.tensorrt.build import build_engines, engine_options, is_bundle

    precisions = [name.value for name in precision or ()]
    options = None
    if target is not None:
        options = engine_options(target.value, batch, size, compute_capability, device)
    model, figures = find(run), dict[str, Any]()
    if options is not None and is_bundle(run):
        if out is not None:
            raise VqtrtError(f"--out is for a run, and {run} is a bundle: leave it out")
    else:
        from vqtrt.export.run import export_bundle, verify_bundle

        kept: list[str] = []
        with terminal.waiting("exporting"):
            model = export_bundle(model, out, precisions, kept.append)
        count = len(model.open_bundle().info.graphs)
        same = f"; {len(kept)} of its {count} graphs are as before" if kept else ""
        terminal.note(f"wrote {model.bundle}{same}")
        if check:
            with terminal.waiting("verifying"):
                figures = verify_bundle(model)
    if options is not None and figures.get("passed", True):
        from vqtrt.formats.bundle import only_export

        bundle = model.open_bundle()
        with only_export(bundle.path), terminal.counting("building engines", 100) as counter:
            engines = build_engines(bundle, options, precisions or ["fp32"], progress=counter)
        if not all(each["trusted"] for each in engines.values()):
            terminal.note(
                "the folder that keeps which engines you built cannot be written: name another "
                "with $VQTRT_STATE and build again, or pass --trust-engines where they are used"
            )
        figures["engines"] = engines
    if figures:
        terminal.show(figures, as_json)
    if "passed" in figures:
        require_passed(figures)


@with_engine
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="Run or bundle (default: $VQTRT_MODEL, else the newest run)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(
            help="Images or recordings to compare on (default: `shapes`; for speech, what the run "
            "held out)."
        ),
    ] = None,
    engine: EngineOptions = AUTO,
    limit: Annotated[int, typer.Option(min=1, help="Compare at most this many of them.")] = 10_000,
    workers: Workers = None,
    split: AnySplit = None,
    as_json: Json = False,
) -> None:
    """Measure that an engine gives the codes, pictures and sounds that torch gives."""
    from vqtrt.commands import terminal
    from vqtrt.export.run import items_for, verify_all
    from vqtrt.models.runs import is_audio_run

    found = find(model)
    if found.run is not None and is_audio_run(found.run):
        refuse({"split": split, "workers": workers}, "images", "speech")
    part = (split or SplitName.TEST).value
    with terminal.counting("verifying") as counter:
        items = items_for(found, data, part, limit=limit, workers=worker_count(workers))
        figures = verify_all(found, items, options=engine, progress=counter)
    terminal.show(figures, as_json)
    require_passed(figures)
