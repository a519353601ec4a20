"""What `encode`, `decode`, `eval` and `sample` take from the package `images`.

`on_audio.py` has the same names for audio; a command chooses one of the two by its model.
"""

from pathlib import Path

from vqtrt.commands import terminal
from vqtrt.commands.bars import counting
from vqtrt.commands.options import IMAGES, DataOptions, SoundOptions
from vqtrt.config.location import ModelLocation
from vqtrt.data.images.open import open_images
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import ImageSource
from vqtrt.data.several import expanded_paths, open_each
from vqtrt.engines.base import Engine
from vqtrt.engines.priors import find_prior
from vqtrt.errors import VqtrtError
from vqtrt.formats.sampling import SamplingParams
from vqtrt.formats.shard_codes import read_images as read_codes
from vqtrt.images.decode import decode_codes
from vqtrt.images.encode import encode_source
from vqtrt.images.evaluate import evaluate
from vqtrt.images.sample import Request, label_number, sample_codes
from vqtrt.images.sample_files import read_prefix, write_codes, write_grid, write_pictures
from vqtrt.images.score import score_codes
from vqtrt.images.tokenizer import ImageTokenizer

__all__ = [
    "FILES",
    "ITEMS",
    "decode_codes",
    "encode_source",
    "evaluate",
    "open_source",
    "open_tokenizer",
    "preprocessing",
    "read_codes",
    "sample",
    "score_codes",
]
ITEMS = "rows"
"""What a codes file holds."""
FILES = "pictures"
"""What `decode` writes."""


def open_source(
    model: ModelLocation,
    paths: list[str],
    options: DataOptions,
    split: str,
    indexes: Path | None = None,
) -> ImageSource:
    """The images of one path or several; `split` is the part if `--split` names none."""
    part = options.split.value if options.split else split
    return open_each(
        expanded_paths(paths), lambda path: open_images(path, part, options.selection, indexes)
    )


def open_tokenizer(
    engine: Engine, batch_size: int | None, sound: SoundOptions | None = None
) -> ImageTokenizer:
    """The model as a tokenizer."""
    return ImageTokenizer(engine, batch_size=batch_size or IMAGES)


def preprocessing(tokenizer: ImageTokenizer, options: DataOptions) -> Preprocessing | None:
    """The model's preprocessing with the size of `--size`; None for its own."""
    return None if options.size is None else tokenizer.preprocessing.with_size(options.size)


def sample(
    model: ModelLocation,
    engine: Engine,
    prior: str,
    num: int,
    params: SamplingParams,
    out: Path | None,
    batch_size: int,
    *,
    grid: Path | None = None,
    label: str | None = None,
    shape: str | None = None,
    prefix: Path | None = None,
    rows: int = 0,
) -> None:
    """Samples of a prior, as pictures, as a codes file and as one grid."""
    tokenizer = ImageTokenizer(engine, batch_size=batch_size)
    request = Request(
        prior=prior,
        num=num,
        params=params,
        label=label_number(label, find_prior(engine, prior)),
        shape=parse_shape(shape),
        prefix=None if prefix is None else read_prefix(prefix, tokenizer),
        rows=rows,
    )
    with counting("sampling") as counter:
        samples = sample_codes(engine, request, batch_size=batch_size, progress=counter)
    if out is not None and out.suffix == ".npy":
        write_codes(tokenizer, request, samples, out, model)
    elif out is not None:
        write_pictures(tokenizer, samples, out)
    if grid and (lines := write_grid(tokenizer, samples, grid)):
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
