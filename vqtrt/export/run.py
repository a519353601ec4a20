"""`vqtrt export`: the bundle of a run, and its verification on real images."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vqtrt.config.location import ModelLocation
from vqtrt.data.images.batches import read_batches
from vqtrt.data.images.open import open_images
from vqtrt.data.images.source import Images
from vqtrt.data.selection import Selection
from vqtrt.engines.choose import installed, open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.export.audio import export_speech_run
from vqtrt.export.bundle import check_place, export_run
from vqtrt.export.verify import check_weights, verify
from vqtrt.export.verify_audio import clips_for, verify_speech
from vqtrt.export.verify_prior import verify_prior
from vqtrt.export.verify_sizes import verify_sizes
from vqtrt.formats.bundle import of_images
from vqtrt.formats.precision import graph_key
from vqtrt.models.runs import AudioRun, ImageRun, is_audio_run

_BATCH = 128
_EXPORT_IMAGES = 256
_EXPORT_CLIPS = 32


def export_bundle(
    model: ModelLocation,
    out: Path | None = None,
    precisions: Sequence[str] = (),
    kept: Callable[[str], None] = lambda name: None,
) -> ModelLocation:
    """Export the run to `out` (default: RUN/bundle); returns the run with its new bundle.

    `precisions` are written beside fp32. `kept` is called with the names of graphs that were
    copied from the bundle that stood in `out`, because they would be the same.
    """
    if model.run is None:
        raise VqtrtError(f"{model.path} is a bundle already: name the run to export")
    place = out or model.run / "bundle"
    check_place(place)
    if is_audio_run(model.run):
        bundle = export_speech_run(AudioRun.open(model.run), place, precisions, kept)
    else:
        bundle = export_run(ImageRun.open(model.run), place, precisions, kept)
    return ModelLocation(model.run, bundle.path, model.chosen_by)


def verify_bundle(model: ModelLocation) -> dict[str, Any]:
    """Verify on the run's own data, or on `shapes` or made recordings where these are not at hand.

    The figures of fp32, and those of fp16 under its name where the bundle has it; `passed` is of
    both. No engine on the CPU runs bf16: where the bundle has it, `bf16` is None.
    """
    assert model.run is not None  # noqa: S101 - `export_bundle` gives one
    if not installed("onnxruntime"):
        raise VqtrtError(
            f"{model.bundle} is written, but verifying it needs a runtime: "
            'pip install "vqtrt[cpu]" (or "vqtrt[gpu]"), or pass --no-verify'
        )
    items = list(_own_items(model))
    figures = verify_all(model, iter(items), options=EngineOptions("onnxruntime"))
    graphs = model.open_bundle().info.graphs
    if graph_key("fp16", "encoder") in graphs:
        half = verify_all(model, iter(items), options=EngineOptions("onnxruntime", "fp16"))
        figures |= {"fp16": half, "passed": figures["passed"] and half["passed"]}
    return figures | ({"bf16": None} if graph_key("bf16", "encoder") in graphs else {})


def _own_items(model: ModelLocation) -> Iterator[NDArray[Any]]:
    """What a bundle is verified on without being told."""
    assert model.run is not None  # noqa: S101 - the caller has one
    if is_audio_run(model.run):
        return clips_for(model, None, limit=_EXPORT_CLIPS)
    settings = ImageRun.open(model.run).config.data
    data, selection = settings.path, settings.selection
    try:
        open_images(data, "test", selection)
    except VqtrtError:
        data, selection = "shapes", Selection()
    return images_for(model, data, "test", selection, limit=_EXPORT_IMAGES, workers=2)


def items_for(
    model: ModelLocation,
    data: str | None,
    split: str,
    *,
    limit: int,
    workers: int,
) -> Iterator[NDArray[Any]]:
    """What a model of either kind is verified on: batches of images, or clips.

    Without `data`: `shapes`, or the recordings that the run held out.
    """
    if model.run is not None and is_audio_run(model.run):
        return clips_for(model, data, limit=limit)
    return images_for(model, data or "shapes", split, limit=limit, workers=workers)


def verify_all(
    model: ModelLocation,
    items: Iterator[NDArray[Any]],
    *,
    options: EngineOptions,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """The model on images or clips, and each prior, under `priors`; `passed` is of all.

    `items` as `items_for` gives them. On ONNX Runtime the graphs also run at other sizes than those
    they were exported at; raises `VqtrtError` if one does not do there what torch does.
    """
    opened = open_engine(model, options)
    if opened.name == "onnxruntime" and options.precision == "fp32" and model.run is not None:
        bundle = model.open_bundle()
        check_weights(model, bundle)
        verify_sizes(bundle, opened, TorchEngine(model.run, device="cpu"))
    check = verify_speech if model.run is not None and is_audio_run(model.run) else verify
    figures = check(model, items, options=options, progress=progress)
    priors = {name: verify_prior(model, name, options=options) for name in opened.priors}
    passed = figures["passed"] and all(prior["passed"] for prior in priors.values())
    return figures | {"priors": priors, "passed": passed}


def images_for(
    model: ModelLocation,
    data: str,
    split: str,
    selection: Selection | None = None,
    *,
    limit: int,
    workers: int,
) -> Iterator[Images]:
    """Batches of the first `limit` images of `data`, as the model's preprocessing makes them."""
    if model.run is not None:
        preprocessing = ImageRun.open(model.run).config.data.preprocessing
    else:
        preprocessing = of_images(model.open_bundle().info.preprocessing)
    source = open_images(data, split, selection)
    batches = read_batches(source, preprocessing, batch_size=_BATCH, workers=workers)
    left = limit
    for batch in islice(batches, -(-limit // _BATCH)):
        yield batch.images[:left]
        left -= len(batch.images)
