"""`vqtrt sample`: samples of a prior as a codes file, as pictures, and as one grid."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.config.location import ModelLocation
from vqtrt.data.grid import image_grid, save_png
from vqtrt.engines.priors import find_prior
from vqtrt.formats.codes import CodesHeader, read_codes
from vqtrt.formats.codes_writer import CodesWriter
from vqtrt.formats.origin import require_origin
from vqtrt.images.sample import Request, Samples
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.jobs.encode import sample_fields
from vqtrt.system.atomic import merging_folder


def read_prefix(path: Path, tokenizer: ImageTokenizer) -> NDArray[Any]:
    """Codes to complete; `VqtrtError` where another tokenizer made them."""
    codes = read_codes(path)
    require_origin(path, codes.header, tokenizer.engine.weights_sha256, "images")
    return codes.codes


def write_codes(
    tokenizer: ImageTokenizer, request: Request, samples: Samples, out: Path, model: ModelLocation
) -> None:
    """Write samples as a codes file, which `vqtrt decode` takes; its .json says how they came."""
    info = find_prior(tokenizer.engine, request.prior)
    names = _names(len(samples.codes))
    height, width = samples.codes.shape[1:3]
    stride = tokenizer.info.stride
    engine, prior, seed = tokenizer.engine, request.prior, request.params.seed
    header = CodesHeader(
        num_codebooks=info.num_codebooks,
        code_shape=(height, width),
        image_size=(height * stride, width * stride),
        preprocessing=tokenizer.preprocessing.model_dump(mode="json"),
        **sample_fields(engine, model, names, info.classes, prior=prior, seed=seed),
    )
    labels = [-1] * len(names) if samples.labels is None else samples.labels.tolist()
    with CodesWriter(out, header=header, resume=False) as writer:
        writer.write(names, labels, samples.codes)
        writer.finish()


def write_pictures(tokenizer: ImageTokenizer, samples: Samples, out: Path) -> None:
    """Write a PNG a sample into the folder `out`; they appear when all are decoded."""
    with merging_folder(out) as stage:
        names = _names(len(samples.codes))
        for name, image in zip(names, tokenizer.decode(samples.codes), strict=True):
            save_png(stage / f"{name}.png", image)


def write_grid(
    tokenizer: ImageTokenizer, samples: Samples, path: Path, scale: int = 2
) -> tuple[int, ...]:
    """Write all samples as one PNG: a line a class where there are several, else about square.

    Gives the classes of the lines, from the top.
    """
    images = tokenizer.decode(samples.codes)
    labels = samples.labels
    classes = () if labels is None else tuple(np.unique(labels).tolist())
    if labels is None or len(classes) == 1:
        columns = max(1, round(len(images) ** 0.5))
        lines = [images[start : start + columns] for start in range(0, len(images), columns)]
    else:
        lines = [images[labels == label] for label in classes]
    save_png(path, image_grid(lines, scale=scale))
    return classes


def _names(count: int) -> list[str]:
    return [f"sample-{number:06d}" for number in range(count)]
