"""`vqtrt eval --bits-per-dim`."""

from collections.abc import Mapping
from typing import Any

from vqtrt.commands.options import DataOptions, ModelOptions, find
from vqtrt.data.urls import public_url
from vqtrt.errors import VqtrtError


def refuse_with_bits(options: Mapping[str, object]) -> None:
    """Raise `VqtrtError` for an option that --bits-per-dim has no use for."""
    for name, value in options.items():
        if value is not None:
            raise VqtrtError(f"{name}: has no effect with --bits-per-dim; leave it out")


def score_bits(
    use: ModelOptions, data: str, options: DataOptions, prior: str | None, samples: int
) -> dict[str, Any]:
    """The bounds of a run over a data set.

    Raises `VqtrtError` without torch, for a bundle alone, and for a model of audio.
    """
    from vqtrt.commands.bars import counting
    from vqtrt.commands.on_images import open_source
    from vqtrt.engines.choose import installed

    found = find(use.model)
    if not installed("torch"):
        raise VqtrtError('--bits-per-dim needs torch: pip install "vqtrt[train]"')
    if found.run is None:
        raise VqtrtError(
            f"--bits-per-dim needs the run, and {found.path} is a bundle alone: pass --model RUN"
        )
    from vqtrt.models.runs import ImageRun, is_audio_run
    from vqtrt.training.bits_per_dim import Scored, evaluate_bits

    if is_audio_run(found.run):
        raise VqtrtError(f"--bits-per-dim: is for models of images, and {found.run} is of audio")
    if options.size is not None:
        refuse_with_bits({"--size": options.size})
    run = ImageRun.open(found.run)
    source = open_source(found, [data], options, "test")
    with counting("scoring") as counter:
        return evaluate_bits(
            run,
            source,
            Scored(samples, prior),
            root=public_url(data),
            progress=counter,
            **options.reading,
        )
