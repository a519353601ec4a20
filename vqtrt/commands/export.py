"""The commands about bundles: `export` and `verify`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vqtrt.commands import terminal
from vqtrt.commands.options import (
    Json,
    PrecisionName,
    Split,
    SplitName,
    Workers,
    expanded,
    find,
    refuse,
    require_training,
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
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Bundle folder (default: RUN/bundle).")
    ] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(help="Also write graphs of this precision, beside fp32; repeatable."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Verify the written files.")
    ] = True,
    target: Annotated[
        TargetName | None, typer.Option(help="Also compile the graphs to engines of this package.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes of the engines: MIN,USUAL,MAX or one number (default: 1,64,64; "
            "1,16,64 for priors and WaveNet steps)."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Image size HxW of the engines, or MIN,USUAL,MAX (default: the model's)."
        ),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="tensorrt-rtx: compute capability such as 8.9; repeatable (default: any)."
        ),
    ] = None,
    device: Annotated[
        int, typer.Option(min=0, help="tensorrt: index of the GPU to compile on.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Export a run to a bundle of ONNX graphs, and verify them.

    With --target, compile them as well; a bundle in place of the run is compiled as it stands.
    """
    from vqtrt.commands.bars import counting, waiting
    from vqtrt.export.tensorrt.build import build_engines, engine_options, is_bundle

    precisions = [name.value for name in precision or ()]
    options = None
    if target is not None:
        options = engine_options(target.value, batch, size, compute_capability, device)
    compiled_as_it_stands = options is not None and is_bundle(run)
    if not compiled_as_it_stands:
        require_training()
    model, figures = find(run), dict[str, Any]()
    if compiled_as_it_stands:
        if out is not None:
            raise VqtrtError(f"--out is for a run, and {run} is a bundle: leave it out")
    else:
        from vqtrt.export.run import export_bundle, verify_bundle

        kept: list[str] = []
        with waiting("exporting"):
            model = export_bundle(model, out, precisions, kept.append)
        count = len(model.open_bundle().info.graphs)
        same = f"; {len(kept)} of its {count} graphs are unchanged" if kept else ""
        terminal.note(f"wrote {model.bundle}{same}")
        if check:
            with waiting("verifying"):
                figures = verify_bundle(model)
    if options is not None and figures.get("passed", True):
        from vqtrt.formats.bundle import only_export

        bundle = model.open_bundle()
        with only_export(bundle.path), counting("building engines", 100) as counter:
            engines = build_engines(bundle, options, precisions or ["fp32"], progress=counter)
        if not all(each["trusted"] for each in engines.values()):
            terminal.note(
                "the folder that keeps which engines you built cannot be written: name another "
                "with $VQTRT_STATE and build again, or pass --trust-engines where they are used"
            )
        figures["engines"] = engines
    if figures:
        terminal.show(figures, as_json)
    _require_passed(figures)


@expanded
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="Run or bundle (default: $VQTRT_MODEL, else the newest run)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(
            help="Images or recordings to compare on (default: `shapes`; for audio, what the run "
            "held out)."
        ),
    ] = None,
    engine: EngineOptions = AUTO,
    limit: Annotated[int, typer.Option(min=1, help="Compare at most this many items.")] = 10_000,
    workers: Workers = None,
    split: Split = None,
    as_json: Json = False,
) -> None:
    """Verify that an engine gives the same codes, images and audio as torch."""
    from vqtrt.commands.bars import counting

    require_training()
    from vqtrt.export.run import items_for, verify_all
    from vqtrt.models.runs import is_audio_run

    found = find(model)
    if found.run is not None and is_audio_run(found.run):
        refuse({"split": split, "workers": workers}, "images", "audio")
    part = (split or SplitName.TEST).value
    with counting("verifying") as counter:
        items = items_for(found, data, part, limit=limit, workers=worker_count(workers))
        figures = verify_all(found, items, options=engine, progress=counter)
    terminal.show(figures, as_json)
    _require_passed(figures)


def _require_passed(figures: dict[str, Any]) -> None:
    """Fail if a verification did."""
    if not figures.get("passed", True):
        raise VqtrtError(
            "verification failed: codes, images, audio or a prior's logits differ by more than the "
            "precision's rounding explains, or codes change with the batch; do not use these files"
        )
