"""What `encode`, `decode`, `eval` and `sample` do with a model of images.

`on_audio.py` has the same functions for a model of audio; the commands choose one of the two.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqtrt.commands import terminal
from vqtrt.commands.options import (
    IMAGES,
    DataOptions,
    SoundOptions,
    SplitName,
    Written,
    refuse,
    skippable,
)
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.config.location import ModelLocation
    from vqtrt.data.images.preprocessing import Preprocessing
    from vqtrt.engines.base import Engine
    from vqtrt.formats.sampling import SamplingParams
    from vqtrt.images.tokenizer import ImageTokenizer
    from vqtrt.jobs.encode import EncodeResult

ITEMS = "rows"
"""What a codes file holds."""
FILES = "pictures"
"""What `decode` writes."""


def encode(
    model: "ModelLocation",
    engine: "Engine",
    paths: list[str],
    out: Path,
    options: DataOptions,
    *,
    batch_size: int | None,
    resume: bool,
) -> "EncodeResult":
    """Images to a codes file."""
    from vqtrt.commands.bars import counting
    from vqtrt.data.images.open import open_images
    from vqtrt.data.several import open_each
    from vqtrt.images.encode import encode_source
    from vqtrt.images.tokenizer import ImageTokenizer

    options.require_images()
    split = (options.split or SplitName.ALL).value
    source = open_each(paths, lambda path: open_images(path, split, options.selection))
    tokenizer = ImageTokenizer(engine, batch_size=batch_size or IMAGES)
    with counting("encoding") as counter, skippable():
        return encode_source(
            tokenizer,
            source,
            out,
            root=" ".join(paths),
            model=model,
            preprocessing=_preprocessing(tokenizer, options),
            workers=options.num_workers,
            on_error=options.on_error.value,
            resume=resume,
            progress=counter,
        )


def decode(
    engine: "Engine",
    codes: Path,
    out: Path,
    *,
    batch_size: int | None,
    workers: int | None,
    speaker: str | None,
    sound: SoundOptions,
    resume: bool,
    written: Written,
) -> int:
    """Codes to a folder of PNGs: how many."""
    from vqtrt.commands.bars import counting
    from vqtrt.commands.options import worker_count
    from vqtrt.formats.codes import read_codes
    from vqtrt.formats.origin import warn_of_others
    from vqtrt.images.decode import decode_codes
    from vqtrt.images.tokenizer import ImageTokenizer

    refuse({"speaker": speaker, **sound.given()}, "audio", "images")
    rows = read_codes(codes)
    warn_of_others(codes, rows.header, engine.weights_sha256, terminal.note)
    with counting("decoding") as counter:
        return decode_codes(
            ImageTokenizer(engine, batch_size=batch_size or IMAGES),
            rows,
            out,
            workers=worker_count(workers),
            note=terminal.note,
            resume=resume,
            resumed=written.resumed,
            progress=counter,
        )


def evaluate(
    model: "ModelLocation",
    engine: "Engine",
    data: str,
    options: DataOptions,
    *,
    batch_size: int | None,
    speaker: str | None,
    grid: Path | None,
    prior: str | None,
) -> tuple[dict[str, Any], object]:
    """Figures of reconstructions, or of a prior; and the source that was read."""
    from vqtrt.commands.bars import counting
    from vqtrt.data.images.open import open_images
    from vqtrt.images.evaluate import evaluate as evaluate_source
    from vqtrt.images.score import score_data
    from vqtrt.images.tokenizer import ImageTokenizer

    options.require_images()
    refuse({"speaker": speaker}, "audio", "images")
    split = (options.split or SplitName.TEST).value
    tokenizer = ImageTokenizer(engine, batch_size=batch_size or IMAGES)
    if prior is not None:
        with counting("scoring") as counter:
            figures = score_data(
                tokenizer,
                prior,
                lambda: open_images(data, split, options.selection),
                root=data,
                model=model,
                workers=options.num_workers,
                progress=counter,
            )
        return figures, None
    source = open_images(data, split, options.selection)
    with counting("evaluating") as counter, skippable():
        figures = evaluate_source(
            tokenizer,
            source,
            preprocessing=_preprocessing(tokenizer, options),
            workers=options.num_workers,
            on_error=options.on_error.value,
            grid=grid,
            progress=counter,
        )
    return figures, source


def sample(
    model: "ModelLocation",
    engine: "Engine",
    prior: str,
    num: int,
    params: "SamplingParams",
    out: Path | None,
    options: dict[str, Any],
    *,
    batch_size: int,
) -> None:
    """Samples of a prior, as pictures, as a codes file and as one grid."""
    from vqtrt.commands.bars import counting
    from vqtrt.engines.priors import find_prior
    from vqtrt.images.sample import Request, label_number, sample_codes
    from vqtrt.images.sample_files import read_prefix, write_codes, write_grid, write_pictures
    from vqtrt.images.tokenizer import ImageTokenizer

    refuse({name: options[name] for name in ("seconds", "speaker")}, "audio", "images")
    tokenizer, prefix = ImageTokenizer(engine, batch_size=batch_size), options["prefix"]
    request = Request(
        prior=prior,
        num=num,
        draw=params,
        label=label_number(options["label"], find_prior(engine, prior)),
        shape=parse_shape(options["shape"]),
        prefix=None if prefix is None else read_prefix(prefix, tokenizer),
        rows=options["rows"] or 0,
    )
    with counting("sampling") as counter:
        samples = sample_codes(engine, request, batch_size=batch_size, progress=counter)
    if out is not None and out.suffix == ".npy":
        write_codes(tokenizer, request, samples, out, model)
    elif out is not None:
        write_pictures(tokenizer, samples, out)
    if (grid := options["grid"]) and (lines := write_grid(tokenizer, samples, grid)):
        classes = engine.priors[prior].classes
        names = ", ".join(classes[line] for line in lines)
        terminal.note(f"classes of the grid, from the top: {names}")


def parse_shape(text: str | None) -> tuple[int, int] | None:
    """`HxW` as two numbers."""
    if text is None:
        return None
    height, cross, width = text.lower().partition("x")
    numbers = cross and height.isdecimal() and width.isdecimal()
    if not numbers or not (int(height) and int(width)):
        raise VqtrtError(f"shape {text!r}: expected HxW in codes, such as 8x8")
    return int(height), int(width)


def _preprocessing(tokenizer: "ImageTokenizer", options: DataOptions) -> "Preprocessing | None":
    """The model's preprocessing with the size of `--size`; None for its own."""
    return None if options.size is None else tokenizer.preprocessing.with_size(options.size)
